"""A trace file's text in blocks, plain or gzipped, as far as it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isal import isal_zlib

from fapool.errors import ProfileFileError

GZIP_MAGIC = b"\x1f\x8b"
PIECE_BYTES = 1 << 14
"""Of compressed bytes: what is lost before a place where they are broken."""
BOM = b"\xef\xbb\xbf"


def blocks(path: Path, notes: list[str], block_bytes: int) -> Iterator[bytes]:
    """Blocks of about `block_bytes` of text; what stopped the reading early goes to `notes`.

    The first two bytes tell a gzipped file, whatever its name is.

    Raises:
        ProfileFileError: the file cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ProfileFileError("trace", str(path), f"cannot be opened: {error.strerror}") from None
    with file:
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        found = _unzipped(file, notes, block_bytes) if zipped else _plain(file, block_bytes)
        first = next(found, b"")
        yield first.removeprefix(BOM)
        yield from found


def _plain(file, block_bytes: int) -> Iterator[bytes]:
    while block := file.read(block_bytes):
        yield block


def _unzipped(file, notes: list[str], block_bytes: int) -> Iterator[bytes]:
    block = bytearray()
    for piece in _members(file, notes):
        block += piece
        if len(block) >= block_bytes:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _members(file, notes: list[str]) -> Iterator[bytes]:
    """Text of all members of a gzipped file, one after the other, in small pieces."""
    unzip, pending = isal_zlib.decompressobj(wbits=31), b""
    while pending := pending or file.read(PIECE_BYTES):
        if unzip.eof:
            if not pending.startswith(GZIP_MAGIC[:1]):
                notes.append("bytes behind the gzipped text were left out")
                return
            unzip = isal_zlib.decompressobj(wbits=31)
        try:
            yield unzip.decompress(pending)
        except isal_zlib.error as error:
            notes.append(f"the gzipped file is broken and was read up to there ({error})")
            return
        pending = unzip.unused_data
    yield unzip.flush()
    if not unzip.eof:
        notes.append("the gzipped file is cut off and was read up to there")
