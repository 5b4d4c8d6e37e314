"""The fused merge through Triton's interpreter, against the merge of whole partials in fp64."""

import os
import subprocess
import sys

import pytest
import torch

from fapool.runtime.partial import Partial, merge
from tests.processes import ROOT, python_path

INTERPRETED = "TRITON_INTERPRET"


@pytest.mark.skipif(os.environ.get(INTERPRETED) == "1", reason="this is what starts the others")
def test_the_kernel_merges_under_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {INTERPRETED: "1", "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.skipif(os.environ.get(INTERPRETED) != "1", reason="runs inside the test above")
@pytest.mark.parametrize("dim", [16, 24])
@pytest.mark.parametrize("num_parts", [2, 3, 4])
def test_parts_merge_in_place_whatever_the_strides_of_lse(num_parts, dim):
    check(num_parts, tokens=37, heads=3, dim=dim, device="cpu", dtype=torch.float32, error=1e-6)


@pytest.mark.gpu(1)
@pytest.mark.parametrize("num_parts", [2, 3, 4, 6])
def test_parts_merge_on_a_gpu(num_parts):
    check(num_parts, tokens=999, heads=8, dim=128, device="cuda", dtype=torch.bfloat16, error=4e-3)


def check(num_parts, *, tokens, heads, dim, device, dtype, error) -> None:
    """Random parts, one of them empty in some rows, all of them in one row."""
    from fapool.runtime.sequence.merging import fused, merge_into

    rng = torch.Generator().manual_seed(num_parts * dim)
    parts = []
    for number in range(num_parts):
        out = torch.randn(tokens, heads, dim, generator=rng)
        lse = 3 * torch.randn(heads, tokens, generator=rng).T
        lse = lse.contiguous() if number == 1 else lse
        for rows in (slice(5, 9), slice(0, 1)) if number == 1 else (slice(0, 1),):
            out[rows], lse[rows] = 0.0, -torch.inf
        parts.append(Partial(out.to(dtype), lse))
    expected = merge([Partial(part.out.double(), part.lse.double()) for part in parts])
    first, *others = [Partial(part.out.to(device), part.lse.to(device)) for part in parts]
    (merge_into if device == "cuda" else fused)(first, others)
    assert (first.out.cpu().double() - expected.out).norm() < error * expected.out.norm()
    assert torch.equal(first.out[0].cpu(), torch.zeros(heads, dim, dtype=dtype))
    assert torch.equal(first.lse[0].cpu(), torch.full((heads,), -torch.inf))
    torch.testing.assert_close(first.lse[1:].cpu().double(), expected.lse[1:], atol=1e-5, rtol=0)
