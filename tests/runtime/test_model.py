"""The decoder against a transformer written otherwise: complex rotations, loops, torch's SDPA."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from fapool.instrument.recorder import no_span
from fapool.runtime.model import Decoder
from fapool.runtime.reference import reference_logits
from fapool.runtime.weights import LayerWeights, Source, Weights
from fapool.spec import Model
from fapool.topology import share

CPU = torch.device("cpu")
HEADS = [(4, 4), (4, 2), (4, 1)]
SEED = 5


def small(heads: int, kv_heads: int, **changes) -> Model:
    sizes = {"layers": 2, "hidden": 24, "head_dim": 8, "ffn": 40, "vocab": 31, "dtype": "float64"}
    return Model(heads=heads, kv_heads=kv_heads, **(sizes | changes))


def whole_layer(source: Source, number: int):
    m = source.model
    return source.layer(number, heads=range(m.heads), kv_heads=range(m.kv_heads), ffn=range(m.ffn))


def rms(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return gain * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def turned(x: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary positions as complex numbers, one token and head at a time; x [T, H, D]."""
    half = x.shape[2] // 2
    turned = torch.empty_like(x)
    for position in range(x.shape[0]):
        for head in range(x.shape[1]):
            pairs = torch.complex(x[position, head, :half], x[position, head, half:])
            angles = [position / base ** (2 * i / x.shape[2]) for i in range(half)]
            pairs = pairs * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
            turned[position, head] = torch.cat([pairs.real, pairs.imag])
    return turned


def naive_logits(model: Model, seed: int, tokens: torch.Tensor) -> torch.Tensor:
    source = Source(model, seed, CPU)
    embedding = source.embedding().double()
    x = embedding[tokens]
    q_rows, kv_rows = model.heads * model.head_dim, model.kv_heads * model.head_dim
    for number in range(model.layers):
        w = whole_layer(source, number)
        normed = rms(x, w.norm_attention)
        q, k, v = (
            (normed @ rows.T).unflatten(1, (-1, model.head_dim))
            for rows in w.qkv.split([q_rows, kv_rows, kv_rows])
        )
        q, k = turned(q, model.rope_base), turned(k, model.rope_base)
        q, k, v = (y.transpose(0, 1)[None] for y in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + out[0].transpose(0, 1).flatten(1) @ w.output.T
        inner = rms(x, w.norm_ffn) @ w.ffn_in.T
        gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        x = x + gelu @ w.ffn_out.T
    return rms(x, source.gain("norm_final")) @ embedding.T


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_the_reference_is_a_plain_transformer(heads, kv_heads):
    model = small(heads, kv_heads)
    sequences = [torch.arange(n) % model.vocab for n in (1, 7, 23)]
    found = reference_logits(model, SEED, sequences, CPU)
    for tokens, logits in zip(sequences, found, strict=True):
        torch.testing.assert_close(logits, naive_logits(model, SEED, tokens), rtol=1e-9, atol=1e-9)


def test_the_reference_of_a_bf16_model_has_its_rounded_weights_and_no_other_rounding():
    model = small(4, 2, dtype="bfloat16")
    tokens = torch.arange(9)
    exact = small(4, 2)
    (rounded,) = reference_logits(model, SEED, [tokens], CPU)
    (plain,) = reference_logits(exact, SEED, [tokens], CPU)
    assert rounded.dtype == torch.float64
    relative = float((rounded - plain).norm() / plain.norm())
    assert 1e-4 < relative < 5e-2


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("parts", [2, 4])
def test_products_over_slices_sum_to_the_whole(heads, kv_heads, parts):
    model = small(heads, kv_heads)
    source, tokens, dim = Source(model, SEED, CPU), 5, model.head_dim
    torch.manual_seed(0)
    x = torch.randn(tokens, model.hidden).double()
    whole = whole_layer(source, 1)
    group = heads // kv_heads
    products, inners = [], []
    for index in range(parts):
        own = share(heads, parts, index)
        kv = range(own.start // group, (own.stop - 1) // group + 1)
        w = source.layer(1, heads=own, kv_heads=kv, ffn=share(model.ffn, parts, index))
        q, k, v = w.qkv.split([len(own) * dim, len(kv) * dim, len(kv) * dim])
        q_all, k_all, v_all = whole.qkv.split([heads * dim, kv_heads * dim, kv_heads * dim])
        assert torch.equal(q, q_all[own.start * dim : own.stop * dim])
        assert torch.equal(k, k_all[kv.start * dim : kv.stop * dim])
        assert torch.equal(v, v_all[kv.start * dim : kv.stop * dim])
        columns = slice(own.start * dim, own.stop * dim)
        attended = torch.arange(tokens * heads * dim).view(tokens, -1).double()
        products.append(attended[:, columns] @ w.output.T)
        inners.append(F.gelu(x @ w.ffn_in.T) @ w.ffn_out.T)
    torch.testing.assert_close(sum(products), attended @ whole.output.T)
    torch.testing.assert_close(sum(inners), F.gelu(x @ whole.ffn_in.T) @ whole.ffn_out.T)


def test_tensors_differ_by_name_and_seed_and_by_nothing_else():
    model = small(4, 2)
    source = Source(model, SEED, CPU)
    again, other = Source(model, SEED, CPU), Source(model, SEED + 1, CPU)
    names = [f"layers.{n}.{part}" for n in (0, 1) for part in ("q", "k")]
    drawn = [source.draw(name, (6, 6)) for name in names]
    for name, tensor in zip(names, drawn, strict=True):
        assert torch.equal(again.draw(name, (6, 6)), tensor)
        assert not torch.equal(other.draw(name, (6, 6)), tensor)
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_the_model_calls_attention_once_a_layer_with_the_numbers_of_its_layers():
    model = small(4, 2)
    source = Source(model, SEED, CPU)
    weights = Weights(
        layers={n: whole_layer(source, n) for n in (3, 7)}, embedding=None, norm_final=None
    )
    decoder = Decoder(weights, model, no_span)
    asked, summed = [], []

    def attend(layer, q, k, v):
        asked.append((layer, tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return q

    def total(product, layer):
        summed.append(layer)
        return product

    decoder.layers(torch.randn(5, 24).double(), torch.arange(5), attend, total)
    assert asked == [(n, (5, 4, 8), (5, 2, 8), (5, 2, 8)) for n in (3, 7)]
    assert summed == [3, 3, 7, 7]


def test_positions_far_out_are_rotated_as_exactly_as_near_ones():
    """Scores depend on the distance of two tokens alone, also past a million."""
    model = small(4, 4)
    source = Source(model, SEED, CPU)
    weights = Weights(layers={0: whole_layer(source, 0)}, embedding=None, norm_final=None)
    decoder = Decoder(weights, model, no_span)
    torch.manual_seed(0)
    x = torch.randn(6, 24).double()
    scores = []
    for start in (0, 1_000_003):

        def attend(layer, q, k, v):
            scores.append(torch.einsum("thd,shd->hts", q, k))
            return q

        decoder.layers(x, start + torch.arange(6), attend, lambda y, layer: y)
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-7, atol=1e-7)


def mixed(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """In place of attention: every head sees its own token's key and value alone."""
    return (q.unflatten(1, (k.shape[1], -1)) * k[:, :, None] + v[:, :, None]).flatten(1, 2)


def alone(product: torch.Tensor, layer: int) -> torch.Tensor:
    return product


def twins(device: str, **changes) -> tuple[Decoder, Decoder, Model]:
    """A decoder, and the same in fp64, over the very same weights."""
    model = small(4, 2, **changes)
    source = Source(model, SEED, torch.device(device))
    layers = {n: whole_layer(source, n) for n in range(model.layers)}
    wide = {
        n: LayerWeights(**{f.name: getattr(w, f.name).double() for f in fields(w)})
        for n, w in layers.items()
    }
    ends = {"embedding": source.embedding(), "norm_final": source.gain("norm_final")}
    wide_ends = {name: tensor.double() for name, tensor in ends.items()}
    narrow = Decoder(Weights(layers=layers, **ends), model, no_span)
    return narrow, Decoder(Weights(layers=wide, **wide_ends), model, no_span), model


ON_DEVICES = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu(1))]
)


@ON_DEVICES
@pytest.mark.parametrize(("dtype", "error"), [("float32", 3e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("tokens", [1, 7])
def test_every_dtype_computes_what_fp64_does_within_its_rounding(device, dtype, error, tokens):
    narrow, wide, model = twins(device, dtype=dtype)
    numbers = torch.arange(tokens, device=device)
    hidden = [
        decoder.layers(decoder.embed(numbers), 1000 + numbers, mixed, alone)
        for decoder in (narrow, wide)
    ]
    logits = [d.logits(x, range(model.vocab)) for d, x in zip((narrow, wide), hidden, strict=True)]
    for found, expected in (hidden, logits):
        assert float((found.double() - expected).norm() / expected.norm()) < error


@ON_DEVICES
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_hidden_states_that_go_in_are_left_as_they_were_and_any_index_is_a_position(device, dtype):
    decoder, *_ = twins(device, dtype=dtype)
    x = decoder.embed(torch.arange(3, device=device))
    before, positions = x.clone(), torch.tensor([5, 0, 70_000], device=device)
    found = [decoder.layers(x, p, mixed, alone) for p in (positions, positions.int())]
    assert torch.equal(*found)
    assert torch.equal(x, before)


def test_products_may_be_summed_in_place_or_into_another_tensor():
    decoder, *_ = twins("cpu")
    x, positions = decoder.embed(torch.arange(3)), torch.arange(3)
    other = decoder.layers(x, positions, mixed, lambda product, layer: product * 2)
    assert torch.equal(decoder.layers(x, positions, mixed, lambda y, layer: y.mul_(2)), other)


@pytest.mark.gpu(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_captured_step_follows_its_inputs(dtype):
    decoder, _, model = twins("cuda", dtype=dtype)
    numbers = torch.arange(4, device="cuda")
    positions = numbers.int()

    def step() -> torch.Tensor:
        x = decoder.layers(decoder.embed(numbers), positions, mixed, alone)
        return decoder.logits(x, range(model.vocab))

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    numbers.copy_(torch.tensor([30, 2, 2, 9]))
    positions.copy_(torch.tensor([0, 131_071, 17, 17]))
    graph.replay()
    torch.testing.assert_close(found, step(), rtol=2e-2, atol=2e-2)
