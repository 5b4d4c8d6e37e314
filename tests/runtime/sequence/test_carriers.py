"""Writes where the ranks can share memory, messages anywhere else."""

import pytest
import torch

from fapool.runtime.sequence import carriers

LIKE = (torch.empty(0, 2, 4),)


@pytest.fixture
def made(monkeypatch) -> dict:
    """A group is its number of ranks; `why`: what keeps it from sharing memory."""
    found: dict = {"why": None, "asked": 0}

    def unfit(device, group) -> str | None:
        found["asked"] += 1
        return found["why"]

    monkeypatch.setattr(carriers, "unfit", unfit)
    monkeypatch.setattr(carriers.dist, "get_world_size", lambda group: group)
    monkeypatch.setattr(carriers, "Symmetric", lambda group, **_: "writes")
    monkeypatch.setattr(carriers, "Messages", lambda group: "messages")
    return found


@pytest.mark.parametrize(
    ("ranks", "why", "carrier"),
    [(2, None, "writes"), (2, "needs all ranks on one node", "messages"), (1, None, "messages")],
)
def test_writes_are_for_ranks_that_share_memory(made, ranks, why, carrier):
    made["why"] = why
    assert carriers.carrier(ranks, max_rows=3, like=LIKE) == carrier
    assert made["asked"] == (ranks > 1)
