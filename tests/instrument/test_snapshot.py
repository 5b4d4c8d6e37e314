"""Snapshots for PyTorch's memory viewer: on GPUs a file of torch's, elsewhere a word of why not."""

import pickletools

import pytest
import torch

from fapool.instrument.snapshot import NO_GPU, MemorySnapshot
from fapool.store import RunFolder


@pytest.mark.parametrize(("wanted", "said"), [(True, NO_GPU), (False, None)])
def test_without_a_gpu_there_is_none_and_that_is_said(tmp_path, wanted, said):
    snapshot = MemorySnapshot(RunFolder(tmp_path), 0, torch.device("cpu"), wanted=wanted)
    with snapshot.recording():
        snapshot.write()
    assert snapshot.said == said
    assert not snapshot.possible
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu(1)
def test_a_gpu_leaves_a_pickle_of_protocol_4_that_names_who_allocated(tmp_path):
    snapshot = MemorySnapshot(RunFolder(tmp_path), 3, torch.device("cuda", 0), wanted=True)
    with snapshot.recording():
        kept = [torch.zeros(1 << 20, device="cuda") for _ in range(3)]
        snapshot.write()
    assert snapshot.said == "memory/rank3.pickle"
    data = (tmp_path / snapshot.said).read_bytes()
    assert data[:2] == b"\x80\x04"
    words = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    assert {"segments", "device_traces", "frames"} <= words
    assert any("test_snapshot.py" in word for word in words)
    assert len(kept) == 3
