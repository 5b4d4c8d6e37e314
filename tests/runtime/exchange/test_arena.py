"""Who may share memory with whom, as all ranks of a group hear of each other."""

from types import SimpleNamespace

import pytest
import torch

from fapool.runtime.exchange import arena

GPU = torch.device("cuda", 0)
GROUP = object()


@pytest.fixture
def says(monkeypatch) -> list[tuple]:
    """A host of two GPUs that reach each other; what the ranks of a group say, this one first."""
    told: list[tuple] = []

    def gather(found: list, mine: tuple, group: object) -> None:
        told.insert(0, mine)
        found[:] = told

    fake = SimpleNamespace(get_world_size=lambda group: 2, all_gather_object=gather)
    monkeypatch.setattr(arena, "dist", fake)
    monkeypatch.setattr(arena, "find_spec", lambda name: object())
    monkeypatch.setattr(arena, "_met", [0])
    properties = SimpleNamespace(uuid="GPU-0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda device, peer: True)
    return told


def peer(*, reason=None, host=None, index=1, gpu="GPU-1", met=0) -> tuple:
    return reason, host or arena.platform.node(), index, gpu, met


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (peer(), None),
        (peer(reason=arena.MISSING), "package triton"),  # it asked all the same, or we would wait
        (peer(host="elsewhere"), "one node"),
        (peer(gpu="GPU-0"), "a GPU for each rank"),
        (peer(met=2), "unequally often: restart them"),
    ],
)
def test_ranks_share_memory_only_where_nothing_keeps_any_of_them_from_it(says, other, why):
    says.append(other)
    found = arena.unfit(GPU, GROUP)
    assert found is None if why is None else why in found


def test_ranks_that_met_equally_often_may_meet_again(says, monkeypatch):
    met = []
    fake = SimpleNamespace(rendezvous=lambda memory, group: met.append((memory, group)))
    monkeypatch.setattr(arena, "symmetric", fake)
    for number in range(3):
        arena.meet(number, GROUP)
    assert met == [(number, GROUP) for number in range(3)]
    says.append(peer(met=3))
    assert arena.unfit(GPU, GROUP) is None
    says[:] = [peer(met=2)]
    assert arena.unfit(GPU, GROUP) == arena.UNEVEN


@pytest.mark.parametrize(
    ("device", "dtype", "why"),
    [
        (GPU, torch.bfloat16, None),
        (GPU, torch.float64, "not float64"),
        (torch.device("cpu"), torch.float32, "not on cpu"),
    ],
)
def test_a_rank_knows_by_itself_whether_it_can_share_memory(says, device, dtype, why):
    found = arena.unfit_here(device, dtype)
    assert found is None if why is None else why in found


def test_a_wait_in_polls_is_a_number_that_a_kernel_takes():
    assert arena.POLLS < 2**31
