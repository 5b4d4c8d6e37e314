"""Who multiplies: our kernels in a form for the shape, torch everywhere else."""

import pytest
import torch
import torch.nn.functional as F

from fapool.runtime import linear as module
from fapool.runtime.elementwise import TorchOps, TritonOps
from fapool.runtime.linear import choose, form_of, linear

pytest.importorskip("triton")

H200 = {"processors": 132, "tensor_cores": True}
A100 = {"processors": 108, "tensor_cores": False}
# (outputs, inputs) of the paper's model: whole, and in slices of 2 and 4.
QKV = [(12288, 4096), (6144, 4096), (3072, 4096), (4352, 4096)]
OUTPUT = [(4096, 4096), (4096, 2048), (4096, 1024)]
FFN = [(16384, 4096), (8192, 4096), (4096, 16384), (4096, 8192)]
LOGITS = [(32000, 4096), (16000, 4096), (8000, 4096)]
SHAPES = QKV + OUTPUT + FFN + LOGITS
TOKENS = [1, 2, 3, 8, 9, 16, 17, 32, 33, 64]
SHARED_BYTES = 227 * 1024


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_forms_fit_their_products_and_the_device(tokens, outputs, inputs):
    form = choose(tokens, inputs, outputs, **H200)
    if form is None:
        return
    assert tokens <= form.tokens
    assert inputs % (form.parts * form.depth) == 0
    assert (form.rows + form.tokens) * form.depth * 2 * form.stages < SHARED_BYTES
    assert form == choose(tokens, inputs, outputs, **H200)


def test_rows_of_a_bucket_are_cut_alike():
    for outputs, inputs in SHAPES:
        assert len({choose(t, inputs, outputs, **H200) for t in (9, 12, 16)}) == 1
        assert len({choose(t, inputs, outputs, **H200) for t in (33, 48, 64)}) == 1


def test_many_rows_odd_widths_and_unmeasured_devices_are_left_to_torch():
    assert choose(65, 4096, 4096, **H200) is None
    assert choose(0, 4096, 4096, **H200) is None
    assert choose(16, 96, 4096, **H200) is None
    assert choose(1, 96, 4096, **H200) is None
    assert choose(16, 4096, 4096, **A100) is None
    assert choose(1, 4096, 4096, **A100) is not None


def test_without_a_gpu_or_triton_or_in_wide_dtypes_torch_multiplies(monkeypatch):
    x, w = torch.ones(1, 4096), torch.ones(8, 4096)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert form_of(x.to(dtype), w.to(dtype)) is None
    monkeypatch.setattr(module, "kernels", None)
    assert form_of(x, w) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ops", [TorchOps, TritonOps])
def test_both_operations_are_those_of_torch_where_torch_multiplies(dtype, ops):
    x, w = torch.randn(3, 24).to(dtype), torch.randn(7, 24).to(dtype)
    operations = ops(dtype)
    assert torch.equal(operations.linear(x, w), F.linear(x, w))
    assert torch.equal(operations.linear_gelu(x, w), F.gelu(F.linear(x, w)))
    assert operations.linear(x, w, torch.float64).dtype == torch.float64


@pytest.mark.gpu(1)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_every_shape_of_the_model_is_multiplied_as_fp32_does_it(outputs, inputs):
    torch.manual_seed(0)
    w = (torch.randn(outputs, inputs, device="cuda") * inputs**-0.5).bfloat16()
    wide = w.float()
    gelu, is_last = (outputs, inputs) in FFN[:2], (outputs, inputs) in LOGITS
    for tokens in (*TOKENS, 65):
        x = torch.randn(tokens, inputs, device="cuda").bfloat16()
        expected = x.float() @ wide.T
        expected = F.gelu(expected) if gelu else expected
        found = linear(x, w, gelu=gelu, dtype=torch.float32 if is_last else None)
        assert found.dtype == (torch.float32 if is_last else torch.bfloat16)
        assert float((found.float() - expected).norm() / expected.norm()) < 4e-3


@pytest.mark.gpu(1)
@pytest.mark.parametrize("tokens", [1, 2, 4, 16, 64])
def test_a_captured_chain_of_products_follows_its_inputs_to_the_last_bit(tokens):
    """Kernels of a graph overlap, but none may read before the one ahead has written."""
    torch.manual_seed(0)
    ops, width = TritonOps(torch.bfloat16), 4096
    weights = [torch.randn(width, width, device="cuda").bfloat16() / 64 for _ in range(4)]
    gain = torch.ones(width, device="cuda", dtype=torch.bfloat16)
    start = torch.randn(tokens, width, device="cuda").bfloat16()

    def chain(wait=lambda: None) -> torch.Tensor:
        x, product = start, None
        for w in weights * 4:
            x, normed = ops.add_norm(x, product, gain, 1e-6)
            wait()
            product = ops.linear_gelu(normed, w)
            wait()
            product = ops.linear(product, w)
            wait()
        return ops.add_norm(x, product, gain, 1e-6)[1]

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for _ in range(3):
        start.normal_()
        graph.replay()
        assert torch.equal(found, chain(torch.cuda.synchronize))
