"""Stores or messages: judged group by group, said when it is not what was hoped for."""

import logging
from types import SimpleNamespace

import pytest
import torch

from fapool.errors import SpecError
from fapool.instrument.recorder import no_span
from fapool.runtime.exchange import opening
from fapool.runtime.exchange.arena import POLLS, UNEVEN
from fapool.spec import FAPool
from tests.synthetic import small_spec

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
PLAN = FAPool(base=2, pool=1, threshold=64)


@pytest.fixture
def verdicts(monkeypatch) -> dict:
    """Group -> what `unfit` says of it; a group is its number of ranks."""
    found: dict = {}
    monkeypatch.setattr(opening, "unfit", lambda device, group, dtype: found[group])
    monkeypatch.setattr(opening, "dist", SimpleNamespace(get_world_size=lambda group: group))
    return found


def test_ranks_that_met_unequally_often_take_messages_and_say_so(verdicts, caplog):
    verdicts |= {3: UNEVEN, 2: None}
    sharing = opening.Sharing(small_spec(plan=PLAN), GPU)
    with caplog.at_level(logging.WARNING, logger="fapool"):
        assert not sharing.among(3)
    assert UNEVEN in caplog.text
    assert sharing.among(2)
    assert sharing.obstacle == UNEVEN


def test_shared_memory_that_is_insisted_on_and_cannot_be_is_an_error(verdicts):
    verdicts[3] = UNEVEN
    sharing = opening.Sharing(small_spec(plan=PLAN, transport="symmetric"), GPU)
    with pytest.raises(SpecError, match="restart them; choose auto"):
        sharing.among(3)


@pytest.mark.parametrize(("transport", "group"), [("messages", 3), ("auto", None), ("auto", 1)])
def test_nobody_is_asked_where_nothing_is_to_be_shared(verdicts, transport, group):
    sharing = opening.Sharing(small_spec(plan=PLAN, transport=transport), GPU)
    assert not sharing.among(group)
    assert sharing.obstacle is None


def test_partials_that_are_merged_in_nodes_go_by_messages_and_that_is_said(verdicts):
    verdicts[3] = None
    plan = FAPool(base=1, pool=2, threshold=64, reduction="hierarchical")
    sharing = opening.Sharing(small_spec(plan=plan), GPU)
    assert not sharing.lends(sharing.among(3))
    assert sharing.obstacle == opening.BY_MESSAGES
    flat = opening.Sharing(small_spec(plan=PLAN), GPU)
    assert flat.lends(flat.among(3))
    assert not flat.lends(False)
    assert flat.obstacle is None


def test_a_cpu_takes_messages_without_a_warning(verdicts, caplog):
    verdicts[3] = "runs on CUDA devices, not on cpu"
    sharing = opening.Sharing(small_spec(plan=PLAN), CPU)
    assert not sharing.among(3)
    assert sharing.obstacle == verdicts[3]
    assert not caplog.records


def test_nothing_waits_for_ever(monkeypatch):
    pytest.importorskip("triton")
    given = []

    def opened(*_, **options) -> None:
        given.append(options["patience"])

    monkeypatch.setattr(opening.symmetric, "open_links", opened)
    monkeypatch.setattr(opening, "SmallSum", opened)
    monkeypatch.setattr(opening, "SymmetricShards", opened)
    spec = small_spec(plan=PLAN)
    opening.open_links(spec, 0, rows=1, device=GPU, groups=(3, 3), span=no_span, shared=True)
    opening.open_sum(GPU, 2)
    peers = SimpleNamespace(size=2)
    opening.open_shards(spec, GPU, 2, peers, rows=1, heads=spec.model.heads)
    assert given == [POLLS] * 3
