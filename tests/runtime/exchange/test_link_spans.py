"""Spans of both ends of every link, joined as the analysis joins them."""

from collections import defaultdict
from contextlib import nullcontext

import pytest
import torch

from fapool.instrument.ranges import apart
from fapool.phases import Phase, Role
from fapool.runtime.exchange.link import route
from fapool.runtime.exchange.link_spans import LinkSpans
from tests.runtime.exchange.test_link import CASES, TEAMS, make_spec

ITEMSIZE = torch.float32.itemsize
ROWS = 4


def recorded(spec, rank: int, name: str, layers: int) -> list[tuple]:
    """Labels of what a rank records of `layers` layers, each exchange by itself."""
    found = []

    def span(phase, *, layer=-1, channel="", sequence=-1, num_bytes=0):
        found.extend(apart((str(phase), layer, -1, channel, sequence, num_bytes)))
        return nullcontext()

    at, dim = route(spec, rank), spec.model.head_dim
    spans = LinkSpans(span, at, name, ITEMSIZE)
    mine = at if at.role is Role.BASE else None
    ends = [mine or end for end in at.ends]
    asked = [ROWS * (len(end.heads) + 2 * len(end.kv_heads)) * dim for end in ends]
    answered = [ROWS * len((mine or end).heads) * (dim + 1) for end in at.answers]
    whole = ROWS * at.group_heads * (dim + 1)
    for layer in range(layers):
        spans.within(Phase.PACK, layer)
        if at.role is Role.BASE:
            spans.sends(Phase.SEND_QUERY, layer, asked)
            spans.waits(Phase.WAIT_PARTIALS, layer, answered)
        else:
            spans.waits(Phase.WAIT_QUERY, layer, asked)
            leads = at.rank == at.team[0]
            if len(at.team) > 1:
                spans.gathers(layer, whole) if leads else spans.gives(layer, whole)
            if leads:
                spans.sends(Phase.SEND_PARTIALS, layer, answered)
        spans.next_layer()
    return [labels for labels in found if labels[3]]


@pytest.mark.parametrize("case", [*CASES, *TEAMS])
def test_every_message_has_one_record_at_each_end_with_the_same_number_layer_and_size(case):
    spec, ends = make_spec(*(CASES | TEAMS)[case]), defaultdict(list)
    for rank in range(spec.plan.world):
        for name in (":link", ":link1"):
            for phase, layer, _, channel, sequence, num_bytes in recorded(spec, rank, name, 5):
                ends[channel, sequence].append((rank, phase, layer, num_bytes))
    routes = [route(spec, rank) for rank in range(spec.plan.world)]
    there = sum(len(at.ends) for at in routes[: spec.plan.base])
    back = sum(len(at.answers) for at in routes[: spec.plan.base])
    among = sum(len(at.team) - 1 for at in routes if at.rank in at.team[:1])
    assert len(ends) == 2 * 5 * (there + back + among)
    for (channel, _), (one, other) in ends.items():
        sender, receiver = map(int, channel.partition(":")[0].split(">"))
        assert {one[0], other[0]} == {sender, receiver}
        assert one[2:] == other[2:]
        assert {one[1], other[1]} in (
            {"send_query", "wait_query"},
            {"send_partials", "wait_partials"},
        )
