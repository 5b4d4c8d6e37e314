"""What a real NVTX tool sees of a rank: ranges of our domain, named, in categories, with payloads.

The tool is a library that NVTX loads as it loads Nsight's; `nvtx_tool.c` beside this file.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import torch
from fapool.instrument.recorder import Recorder
from fapool.phases import Phase, Role

recorder = Recorder(rank=0, role=Role.BASE, device=torch.device("cpu"))
recorder.begin(0)
for layer in range(2):
    with recorder.span(Phase.ATTEND, layer=layer):
        with recorder.span(Phase.SEND_QUERY, layer=layer, channel="0>1", sequence=7, num_bytes=64):
            pass
with recorder.span(Phase.SEND_KV, channel="0>1", sequence=8, num_bytes=1 << 40):
    pass
with recorder.span(Phase.LEASE):
    pass
"""
INT64 = 2


@pytest.fixture(scope="module")
def ranges(tmp_path_factory) -> list[list[str]]:
    """What the tool wrote, line by line, field by field."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("nvtx")
    tool, log = folder / "tool.so", folder / "log.txt"
    source = Path(__file__).with_name("nvtx_tool.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", tool, source], check=True)
    own = {"NVTX_INJECTION64_PATH": str(tool), "NVTX_TOOL_LOG": str(log)}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=60)
    return [line.split("|") for line in log.read_text().splitlines()]


def test_every_range_is_of_our_domain_and_is_closed_where_it_was_opened(ranges):
    ours = [line for line in ranges if line[1] == "fapool"]
    assert [line[0] for line in ours] == ["push", "push", "pop", "pop"] * 2 + ["push", "pop"] * 2


def test_a_range_has_its_phase_its_category_and_its_layer_or_its_bytes(ranges):
    pushed = [tuple(line[2:]) for line in ranges if line[:2] == ["push", "fapool"]]
    assert [(name, category, int(payload)) for name, category, _, payload in pushed] == [
        ("attend", "compute", 0),
        ("send_query", "communication", 0),
        ("attend", "compute", 1),
        ("send_query", "communication", 1),
        ("send_kv", "communication", 1 << 40),
        ("lease", "management", 0),
    ]
    assert {int(kind) for _, _, kind, _ in pushed} == {INT64}
