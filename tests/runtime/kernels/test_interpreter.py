"""The tests of Triton kernels once more, through triton's interpreter: no GPU needed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.kernels.interpreter import INTERPRETED

HERE = Path(__file__).parent
FILES = (
    HERE / "test_decode.py",
    HERE / "test_combine.py",
    HERE.parent / "attention" / "test_triton.py",
)


@pytest.mark.skipif(INTERPRETED, reason="is the interpreted process itself")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_hold_through_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, FILES)],
        cwd=HERE.parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
