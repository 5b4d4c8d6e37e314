"""Processes that read files, and what becomes of those that die."""

import os
import re
import signal
from pathlib import Path

import pytest

from fapool.errors import ProfileFileError
from fapool.traces.readers import Readers

pytestmark = pytest.mark.ranks


def read_or_die(path: Path) -> str:
    """The file's text; of `deadly` the process dies, and of `moody` the first that opens it."""
    text = path.read_text()
    if text == "deadly" or (text == "moody" and not (tried := path.with_suffix(".tried")).exists()):
        if text == "moody":
            tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory is short
    return text


def written(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"rank{rank}.json" for rank in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def test_a_file_that_its_reader_dies_over_is_an_error_that_names_it(tmp_path):
    paths = written(tmp_path, "good", "deadly", "good")
    with pytest.raises(ProfileFileError, match=re.escape(str(paths[1]))) as caught:
        list(Readers(read_or_die, paths, 2).results())
    assert "move the file out of the folder" in caught.value.way_out


def test_a_process_that_died_once_loses_no_file(tmp_path):
    paths = written(tmp_path, "good", "moody", "fine")
    assert list(Readers(read_or_die, paths, 2).results()) == ["good", "moody", "fine"]
    assert (tmp_path / "rank1.tried").exists()
