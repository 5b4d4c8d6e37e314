"""Who may write into the others' memory."""

import pytest
import torch

from fapool.runtime.sequence.carriers import Seen, look, one_sided


def told(*ranks: tuple[str, int, set[int]]) -> list[Seen]:
    return [Seen(host=host, gpu=gpu, reaches=frozenset(reaches)) for host, gpu, reaches in ranks]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([("a", 0, {1, 2}), ("a", 1, {0, 2})], True),
        ([("a", 0, {1}), ("b", 1, {0})], False),  # two hosts
        ([("a", 0, {1}), ("a", 0, {1})], False),  # one GPU for both, or each sees its own alone
        ([("a", 0, {1}), ("a", 1, set())], False),  # no way back
        ([("a", -1, set()), ("a", -1, set())], False),  # CPUs
        ([("a", 0, {2, 4}), ("a", 2, {0, 4}), ("a", 4, {0, 2})], True),
        ([("a", 0, {2, 4}), ("a", 2, {0}), ("a", 4, {0, 2})], False),
    ],
)
def test_writes_need_one_host_and_gpus_that_reach_each_other(ranks, expected):
    assert one_sided(told(*ranks)) is expected


def test_a_rank_on_a_cpu_reaches_nobody():
    assert look(torch.device("cpu")).gpu == -1


@pytest.mark.gpu(2)
def test_gpus_of_this_node_reach_each_other():
    assert one_sided([look(torch.device("cuda", index)) for index in range(2)])
