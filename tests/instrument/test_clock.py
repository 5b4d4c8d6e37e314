"""Offsets between clocks: exact on one host, bounded by round trips between hosts."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import torch.distributed as dist

from fapool.instrument import clock
from fapool.instrument.clock import HostClock

ROOT = Path(__file__).parents[2]


def test_unix_time_is_this_hosts():
    mine = time.perf_counter_ns() + clock.unix_offset_ns()
    assert abs(time.time_ns() - mine) < 50_000_000


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_rank_0_is_its_own_clock(one_rank):
    found = HostClock()
    found.ask()
    assert found.line() is None
    assert found.settle()(5) == 5
    assert found.about() == {
        "same_host_as_rank_0": True,
        "offset_ns": 0,
        "drift_ppb": 0,
        "uncertainty_ns": 0,
        "notes": [],
    }
    assert abs(found.unix_offset_ns - clock.unix_offset_ns()) < 50_000_000


def ask(folder: Path, commands: list[list[str]], **plan: object) -> list[dict]:
    """What ranks 0 and 1 found, each started by its own command."""
    arguments = orjson.dumps({"store": str(folder / "store"), **plan}).decode()
    program = [sys.executable, "-m", "tests.instrument.clock_rank", arguments]
    ranks = [
        subprocess.Popen(
            [*command, *program, str(rank)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        for rank, command in enumerate(commands)
    ]
    try:
        return [orjson.loads(rank.communicate(timeout=90)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def check_recovered(found: list[dict], offset_ns: int, drift: float) -> tuple[int, dict]:
    """The largest error of rank 1's clock, which must lie within what it states."""
    first, second = found
    assert first["about"]["same_host_as_rank_0"]
    about = second["about"]
    assert not about["same_host_as_rank_0"]
    assert about["notes"] == []
    errors = [settled - truth for truth, settled in second["times"]]
    # Both name the same base: Unix time as rank 0 had it at its start.
    shift = first["unix_offset_ns"]
    worst = max(abs(error - shift) for error in errors)
    assert worst <= about["uncertainty_ns"]
    assert abs(about["drift_ppb"] + drift * 1e9) <= about["drift_uncertainty_ppb"] + 1_000
    return worst, about


@pytest.mark.ranks
def test_a_planted_offset_and_drift_are_found_within_the_stated_uncertainty(tmp_path):
    planted = {"offset_ns": -3_000_000_000, "drift": 2e-4, "pause_s": 1.0}
    found = ask(tmp_path, [[], []], **planted)
    _, about = check_recovered(found, planted["offset_ns"], planted["drift"])
    assert about["uncertainty_ns"] < 2_000_000


SHAPES = ["netem delay 200us", "tbf rate 10mbit burst 2kb latency 50ms"]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.split()[0])
def two_hosts(request) -> Iterator[tuple[list[list[str]], list[str]]]:
    """Two network namespaces and a cable that is shaped at both ends: commands, interfaces."""
    missing = [tool for tool in ("ip", "tc", "unshare") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"shapes a link between two network namespaces: no {', '.join(missing)}")
    names = [f"fapool-test-{side}" for side in "ab"]

    def call(*words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"shapes a link, and `{' '.join(words)}` failed: {done.stderr.strip()}")

    try:
        for name in names:
            call("ip", "netns", "add", name)
        ends = [f"fp{side}" for side in "ab"]
        call("ip", "link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name",
             ends[1], "netns", names[1])  # fmt: skip
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            inside = ("ip", "-n", name)
            call(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            call(*inside, "link", "set", end, "up")
            call(*inside, "link", "set", "lo", "up")
            shaped = ("tc", "qdisc", "add", "dev", end, "root", *request.param.split())
            call("ip", "netns", "exec", name, *shaped)
        yield [["ip", "netns", "exec", name] for name in names], ends
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.ranks
def test_clocks_of_shaped_hosts_agree_to_50_us_where_both_ways_take_equally_long(
    tmp_path, two_hosts
):
    commands, ends = two_hosts
    planted = {"offset_ns": 8_000_000_000, "drift": -5e-5, "pause_s": 2.0, "interfaces": ends}
    found = ask(tmp_path, commands, **planted)
    worst, about = check_recovered(found, planted["offset_ns"], planted["drift"])
    assert about["uncertainty_ns"] < 5_000_000
    assert worst < 50_000  # what is sure whatever the ways take is half of the quickest trip
