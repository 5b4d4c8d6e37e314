"""Kernels that met: by sequence number, by place, by peer; and those that met none."""

import random
from pathlib import Path

import pytest

from fapool.analysis.activities.kernels import sort_out
from fapool.analysis.activities.rendezvous import Meetings, meet
from fapool.traces import read
from tests.traces import forms
from tests.traces.forms import event, kernel, launch, said, step


def met(
    folder: Path, *ranks: list[dict], head: dict | None = None, shift_ns: dict | None = None
) -> Meetings:
    """Ranks' events written, read and matched."""
    traces = []
    for rank, events in enumerate(ranks):
        info = {"distributedInfo": {"rank": rank, "world_size": len(ranks), **(head or {})}}
        text = forms.kineto(events, forms.HEAD | info)
        traces.append(read(forms.write(folder / f"{rank}.json", text)))
    return meet(traces, [sort_out(trace) for trace in traces], shift_ns or {})


def arrivals(found: Meetings) -> list[list[int]]:
    return [(one - forms.BASE_NS).tolist() for one in found.arrival_ns]


def reduce(start_ns: int, end_ns: int, members: tuple[int, ...] = (0, 1), **more) -> dict:
    return kernel(start_ns, end_ns, "nccl", 20, **said("allreduce", list(members), **more))


def message(what: str, peer: int, start_ns: int, end_ns: int, members=(0, 1)) -> dict:
    word = {"send": "Dst Rank", "recv": "Src Rank"}[what]
    return kernel(start_ns, end_ns, "nccl", 20, **said(what, list(members), **{word: peer}))


def test_a_collective_is_split_where_its_last_participant_begins(tmp_path):
    found = met(tmp_path, [reduce(10, 90)], [reduce(40, 91)])
    assert arrivals(found) == [[40], [40]]
    assert (found.communication, found.matched, found.early, found.nameless) == (2, 2, 0, 0)


def test_arrivals_are_compared_on_one_clock_and_given_on_each_ranks_own(tmp_path):
    apart = [reduce(10, 90)], [reduce(1_040, 1_091)]
    assert arrivals(met(tmp_path, *apart)) == [[10], [1_040]]  # early, as it seems
    assert arrivals(met(tmp_path, *apart, shift_ns={1: -1_000})) == [[40], [1_040]]
    assert arrivals(met(tmp_path, *apart, shift_ns={0: 1_050})) == [[10], [1_060]]


def test_sequence_numbers_match_what_is_reordered_and_find_what_is_missing(tmp_path):
    first = [reduce(start, start + 9, Seq=start // 10) for start in (10, 20, 30, 40)]
    second = [reduce(start + 1, start + 9, Seq=start // 10) for start in (10, 20, 40)]
    random.Random(0).shuffle(second)
    found = met(tmp_path, first, second)
    assert arrivals(found) == [[11, 21, 30, 41], [11, 21, 41]]
    assert (found.communication, found.matched) == (7, 6)


def test_a_record_that_comes_twice_is_not_matched_by_chance(tmp_path):
    found = met(tmp_path, [reduce(10, 19, Seq=1), reduce(20, 29, Seq=1)], [reduce(15, 19, Seq=1)])
    assert arrivals(found) == [[10, 20], [15]]
    assert found.matched == 0


def test_without_sequence_numbers_the_place_in_a_step_counts(tmp_path):
    hosts = [step(1, 0, 100), step(2, 100, 200), launch(1, 10, 11), launch(2, 110, 111)]
    first = [*hosts, reduce(20, 80, correlation=1), reduce(120, 180, correlation=2)]
    second = [*hosts[1:], reduce(130, 180, correlation=2)]  # its trace began a step later
    found = met(tmp_path, first, second)
    assert arrivals(found) == [[20, 130], [130]]


def test_where_ranks_have_another_number_in_a_step_none_of_them_is_guessed(tmp_path):
    found = met(tmp_path, [reduce(10, 19), reduce(30, 39)], [reduce(15, 39)])
    assert arrivals(found) == [[10, 30], [15]]
    assert found.matched == 0


def test_a_collective_of_a_rank_without_a_trace_meets_none(tmp_path):
    three = [reduce(10, 90, (0, 1, 2))], [reduce(40, 91, (0, 1, 2))]
    assert met(tmp_path, *three).matched == 0


def test_groups_of_one_name_are_told_apart_by_their_members(tmp_path):
    ranks = [[reduce(10 * n, 90, (0, 1) if n < 2 else (2, 3))] for n in range(4)]
    assert arrivals(met(tmp_path, *ranks)) == [[10], [10], [30], [30]]


def test_members_come_from_the_list_of_groups_where_a_kernel_does_not_say(tmp_path):
    groups = {"pg_config": [{"pg_name": "0", "ranks": [0, 1]}]}
    unsaid = [reduce(10, 90) | {}, reduce(40, 90)]
    for one in unsaid:
        one["args"].pop("Process Group Ranks")
    ranks = [[one] for one in unsaid]
    assert arrivals(met(tmp_path, *ranks, head=groups)) == [[40], [40]]
    assert met(tmp_path, *ranks).matched == 0


@pytest.mark.parametrize("peers", [(2, 1), (1, 0)])  # as ranks of the world, or of the group
def test_a_message_meets_its_peers(tmp_path, peers):
    to, source = peers
    sends = [message("send", to, 10, 90, (1, 2)), message("send", to, 100, 190, (1, 2))]
    receives = [message("recv", source, 40, 91, (1, 2)), message("recv", source, 95, 191, (1, 2))]
    found = met(tmp_path, [], sends, receives)
    assert arrivals(found) == [[], [40, 100], [40, 100]]


def test_a_send_that_was_over_before_its_peer_began_did_not_wait(tmp_path):
    found = met(tmp_path, [message("send", 1, 10, 20)], [message("recv", 0, 40, 50)])
    assert arrivals(found) == [[10], [40]]
    assert (found.matched, found.early) == (2, 1)


def test_what_a_kernel_does_not_say_its_hosts_record_says(tmp_path):
    record = event("record_param_comms", "cpu_op", 0, 5, **said("allreduce", [0, 1], Seq=3))
    record["args"]["External id"] = 9
    bare = [record, kernel(10, 90, "nccl", 20, **{"External id": 9})]
    found = met(tmp_path, bare, [reduce(40, 91, Seq=3)])
    assert arrivals(found) == [[40], [40]]


def test_kernels_known_by_their_name_alone_are_counted(tmp_path):
    found = met(tmp_path, [kernel(10, 90, "ncclKernel_AllReduce", 20)], [reduce(40, 91)])
    assert (found.communication, found.matched, found.nameless) == (2, 0, 1)
