"""Where tests of Triton kernels run: on a GPU, or on the CPU in a process where triton interprets.

Triton decides when a kernel is defined, so one process cannot do both: `test_interpreter.py`
starts the second one, where TRITON_INTERPRET=1.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


def here(interpreted: list, gpu: list) -> list:
    """The cases that this process can run; those of a GPU are skipped where there is none."""
    if INTERPRETED:
        return interpreted
    return [pytest.param(case, marks=pytest.mark.gpu(1)) for case in gpu]


def interpret(file: str, *options: str) -> None:
    """Run a file of tests in a process where triton interprets; fails as it does."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, file],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def mend() -> None:
    """Let loaded numbers bound a loop: triton 3.6 takes int() of arrays [1], which numpy ended."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor, scope) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


if INTERPRETED:
    torch.set_num_threads(1)
    mend()
