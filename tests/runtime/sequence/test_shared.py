"""A prompt dealt out over ranks against softmax written out in fp64 over the whole of it."""

import pytest
import torch

from fapool.runtime.attention.reference import Reference
from fapool.runtime.sequence.zigzag import Zigzag
from tests.runtime.sequence.sharded_ranks import Case, attend, prompt

ERROR = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 8e-3}
SIZES = [(2, 64, False), (2, 37, True), (3, 96, False), (3, 101, True)]
SIZES += [(3, 5, True), (3, 2, False), (2, 1, False)]
ON_CPUS = [
    Case(ranks=ranks, tokens=tokens, scheme=scheme, slow=slow, seed=7 * tokens + ranks)
    for scheme in ("shared", "sharded")
    for ranks, tokens, slow in SIZES
] + [
    Case(ranks=3, tokens=50, scheme=scheme, dtype=dtype, backend=backend, kv_heads=kv_heads)
    for scheme in ("shared", "sharded")
    for dtype, backend, kv_heads in [("float64", "reference", 1), ("bfloat16", "cpu", 4)]
]
ON_GPUS = [
    Case(
        ranks=2,
        tokens=tokens,
        heads=8,
        kv_heads=kv_heads,
        dim=128,
        dtype="bfloat16",
        scheme=scheme,
        carrier=carrier,
        backend=backend,
        times=4,
        seed=tokens,
    )
    for backend in ("cudnn", "aten")
    for carrier in ("best", "messages")
    for scheme in ("shared", "sharded")
    for tokens, kv_heads in [(2048, 8), (1501, 2), (301, 1)]
]


def relative_error(case: Case, outputs: list[list[torch.Tensor]]) -> float:
    """Of the worst token of all rounds: late rows are small beside early ones."""
    shards = Zigzag(num_tokens=case.tokens, num_ranks=case.ranks)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    worst = 0.0
    for time in range(case.times):
        q, k, v = (x.double()[None].to(device) for x in prompt(case, time))
        expected = Reference().dense(q, k, v, causal=True)[0][0].cpu()
        found = torch.full_like(expected, torch.nan)
        for rank in range(case.ranks):
            found[shards.positions(rank)] = outputs[rank][time].double()
        off, size = (x.flatten(1).norm(dim=1) for x in (found - expected, expected))
        worst = max(worst, float((off / size).max()))
        assert found.isfinite().all()
    return worst


@pytest.mark.ranks
@pytest.mark.untimed
def test_ranks_over_gloo_find_what_one_device_finds(tmp_path):
    outputs = attend(ON_CPUS, 3, "cpu", tmp_path)
    errors = {
        case: relative_error(case, found) for case, found in zip(ON_CPUS, outputs, strict=True)
    }
    wrong = {case: error for case, error in errors.items() if not error < ERROR[case.dtype]}
    assert not wrong


@pytest.mark.ranks
@pytest.mark.untimed
@pytest.mark.gpu(2)
def test_two_gpus_find_what_one_device_finds(tmp_path):
    outputs = attend(ON_GPUS, 2, "cuda", tmp_path)
    errors = {
        case: relative_error(case, found) for case, found in zip(ON_GPUS, outputs, strict=True)
    }
    wrong = {case: error for case, error in errors.items() if not error < ERROR[case.dtype]}
    assert not wrong
