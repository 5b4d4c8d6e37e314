"""Bytes by owner, as told and as read."""

from types import SimpleNamespace

import psutil
import pyarrow as pa
import pytest
import torch

from fapool.instrument.memory import DRIVER_PAUSE_NS, MemoryMeter, peak_transient_bytes
from fapool.phases import MEMORY, Owner


@pytest.fixture
def meter() -> MemoryMeter:
    return MemoryMeter(2, torch.device("cpu"))


def test_a_reading_holds_a_row_for_every_owner_that_a_cpu_has(meter):
    meter.set(Owner.WEIGHTS, 100)
    meter.set(Owner.KV, 60)
    meter.set(Owner.KV_USED, 20)
    meter.read(0, 5, 777)
    rows = pa.table(meter.columns(), schema=MEMORY).to_pylist()
    assert {row["owner"] for row in rows} == set(Owner) - {Owner.ALLOCATOR}
    assert {(row["repeat"], row["rank"], row["step"], row["time_ns"]) for row in rows} == {
        (0, 2, 5, 777)
    }
    told = {row["owner"]: row["bytes"] for row in rows}
    assert (told["weights"], told["kv"], told["kv_used"]) == (100, 60, 20)


def test_the_device_of_a_cpu_rank_is_its_process(meter):
    meter.read(0, 0, 0)
    resident = psutil.Process().memory_info().rss
    assert abs(meter.latest()["device"] - resident) < 0.5 * resident
    assert resident < meter.capacity_bytes == psutil.virtual_memory().total


def test_a_warm_up_is_read_but_not_kept(meter):
    meter.set(Owner.BUFFERS, 8)
    meter.read(-1, 0, 0)
    assert meter.latest()["buffers"] == 8
    assert pa.table(meter.columns(), schema=MEMORY).num_rows == 0


def test_what_is_measured_cannot_be_told(meter):
    with pytest.raises(AssertionError, match="measured"):
        meter.set(Owner.DEVICE, 1)


def test_transient_bytes_are_the_most_held_at_once():
    x = torch.zeros(1000)

    def work() -> None:
        first = x.repeat(100)  # 400 kB
        second = first.clone()  # and 400 kB
        del first
        second.clone()  # in the place of the first

    peak = peak_transient_bytes(work)
    assert 800_000 <= peak < 801_000


def test_memory_that_was_there_before_does_not_count():
    held = [torch.zeros(100_000)]

    def work() -> None:
        held.clear()
        torch.zeros(10)

    assert peak_transient_bytes(work) <= 1000


class Driver:
    """A GPU's driver and torch's allocator, as the meter asks them."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.asked, self.reserved, self.others = 0, 0, 1000, 300
        cuda = {
            "get_device_properties": lambda device: SimpleNamespace(total_memory=9000),
            "reset_peak_memory_stats": lambda device: None,
            "memory_stats_as_nested_dict": lambda device: {
                "allocated_bytes": {"all": {"peak": 70, "current": 50}},
                "reserved_bytes": {"all": {"current": self.reserved}},
            },
            "mem_get_info": self.mem_get_info,
        }
        for name, call in cuda.items():
            monkeypatch.setattr(torch.cuda, name, call)

    def mem_get_info(self, device) -> tuple[int, int]:
        self.asked += 1
        return 9000 - self.reserved - self.others, 9000


def test_a_driver_is_asked_twice_a_second_and_torch_at_every_reading(monkeypatch):
    driver = Driver(monkeypatch)
    meter = MemoryMeter(0, torch.device("cuda", 0), clock=lambda: driver.now)
    meter.read(0, 0, 0)
    assert meter.latest()["device"] == 1300
    driver.now, driver.reserved, driver.others = DRIVER_PAUSE_NS - 1, 1600, 900
    meter.read(0, 1, 1)
    assert (meter.latest()["allocator"], meter.latest()["device"]) == (1600, 1900)
    assert driver.asked == 1
    driver.now += 1
    meter.read(0, 2, 2)
    assert meter.latest()["device"] == 1600 + 900
    assert driver.asked == 2
