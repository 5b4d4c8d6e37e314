"""Products of few rows against fp64: on a GPU, and on the CPU through Triton's interpreter.

The interpreter has to be asked for before triton is imported, so it has a process of its own.
"""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")
from fapool.runtime.kernels.linear import Form, linear
from tests.runtime.kernels.interpreter import INTERPRETED, interpret

DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu(1))]
# The interpreter cuts bf16 off where a GPU rounds it.
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}

STRIPS = [
    Form(rows=4, depth=128, stages=1, warps=4, tokens=1),
    Form(rows=4, depth=64, stages=2, warps=2, tokens=2),
    Form(rows=2, depth=32, stages=2, warps=2, tokens=4, parts=3),
]
TILES = [
    Form(rows=16, depth=32, stages=3, warps=4, tokens=16),
    Form(rows=64, depth=64, stages=4, warps=4, tokens=32, parts=2),
    Form(rows=64, depth=128, stages=2, warps=8, tokens=64, parts=3),
]
in_forms = pytest.mark.parametrize("form", STRIPS + TILES, ids=lambda f: f"{f.tokens}x{f.parts}")
on_devices = pytest.mark.parametrize("device", DEVICES)
in_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


if not INTERPRETED:

    def test_the_interpreter_finds_the_products_right():
        interpret(__file__)


def drawn(tokens: int, inputs: int, outputs: int, device: str, dtype: torch.dtype):
    """x [T, E], w [N, E], and an output [T, N] with nothing in it yet."""
    x = torch.randn(tokens, inputs, device=device).to(dtype)
    w = (torch.randn(outputs, inputs, device=device) * inputs**-0.5).to(dtype)
    return x, w, torch.full((tokens, outputs), float("nan"), device=device, dtype=dtype)


@on_devices
@in_dtypes
@in_forms
@pytest.mark.parametrize(("outputs", "short"), [(1, 0), (83, 1)])
@pytest.mark.parametrize("gelu", [False, True], ids=["product", "gelu"])
def test_products_are_rounded_once(device, dtype, form, outputs, short, gelu):
    tokens = max(1, form.tokens - short)
    x, w, out = drawn(tokens, 384, outputs, device, dtype)
    found = linear(x, w, out, form, gelu=gelu)
    expected = x.double() @ w.double().T
    expected = F.gelu(expected) if gelu else expected
    assert found is out
    torch.testing.assert_close(
        found.double(), expected, rtol=1.01 * ROUNDING[dtype], atol=2e-5, check_dtype=False
    )


@on_devices
@in_forms
def test_logits_may_be_fp32(device, form):
    x, w, out = drawn(form.tokens, 384, 50, device, torch.float16)
    found = linear(x, w, out.float(), form)
    torch.testing.assert_close(found.double(), x.double() @ w.double().T, rtol=0, atol=5e-5)


@on_devices
@in_forms
def test_a_token_alone_finds_what_it_finds_beside_others(device, form):
    x, w, out = drawn(form.tokens, 384, 70, device, torch.float16)
    found = linear(x, w, out, form).clone()
    for token in (0, form.tokens - 1):
        alone = linear(x[token : token + 1], w, torch.empty_like(out[:1]), form)
        assert torch.equal(alone[0], found[token])


@on_devices
def test_parts_that_the_depth_does_not_divide_are_refused(device):
    x, w, out = drawn(1, 96, 8, device, torch.float16)
    with pytest.raises(AssertionError, match="depth=64"):
        linear(x, w, out, Form(rows=4, depth=64, stages=1, warps=1, tokens=1))
