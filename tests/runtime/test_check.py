"""A kernel that attends whole grains in a way of its own is held against fp64 before a run."""

import pytest
import torch

from fapool.errors import CheckFailed
from fapool.runtime.attention.reference import Reference
from fapool.runtime.check import prove
from fapool.spec import Model

MODEL = Model.preset("tiny")


class Grained(Reference):
    """Right below a grain; off by `slip` where keys fill one."""

    name, grain = "grained", 64

    def __init__(self, slip: float) -> None:
        self.slip = slip

    def dense(self, q, k, v, *, causal):
        out, lse = super().dense(q, k, v, causal=causal)
        return out * (1 + self.slip * (k.shape[1] > self.grain)), lse


def test_a_kernel_that_is_right_passes():
    prove(Grained(0.0), MODEL, torch.device("cpu"))
    prove(Reference(), MODEL, torch.device("cpu"))


def test_one_that_is_wrong_only_where_keys_fill_grains_is_refused():
    with pytest.raises(CheckFailed, match=r"grained attends 64 queries over 213 keys .* 1.0e-02"):
        prove(Grained(1e-2), MODEL, torch.device("cpu"))


def test_one_that_gives_no_number_is_refused():
    with pytest.raises(CheckFailed, match="nan"):
        prove(Grained(float("nan")), MODEL, torch.device("cpu"))
