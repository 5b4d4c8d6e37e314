"""Which request had how much of a rank's cache: the last step of every company of requests.

Between two changes (somebody comes, goes or moves) tokens only grow: the step before a change has
the peak of each request, and of their sum, since the change before.
"""

from __future__ import annotations

from typing import Any

from fapool.phases import KV
from fapool.runtime.kvcache import KVCache


class KVBook:
    """Rows of `fapool.phases.KV` of one rank. A note costs a copy of a small dictionary."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._seen: tuple[int, int] = (-1, -1)  # the cache and its changes
        self._open: tuple[int, int, dict[int, int]] = (-1, -1, {})  # repeat, step, tokens
        self._blocks: dict[int, int] = {}
        self._sizes = 1, 0  # tokens of a block, bytes of a token
        self._rows: list[tuple[int, ...]] = []

    def note(self, repeat: int, step: int, cache: KVCache) -> None:
        """The host closed a step; the requests that it finished are here still."""
        if self._seen != (seen := (id(cache), cache.changes)) or repeat != self._open[0]:
            self._keep()
            self._seen = seen
            self._blocks = {request: len(blocks) for request, blocks in cache.tables.items()}
            self._sizes = cache.block_tokens, cache.bytes_per_token
        self._open = repeat, step, dict(cache.tokens)

    def columns(self) -> dict[str, list[Any]]:
        """All that was kept, as the columns of `fapool.phases.KV`."""
        self._keep()
        values = zip(*self._rows, strict=True) if self._rows else ((),) * len(KV.names)
        return {name: list(column) for name, column in zip(KV.names, values, strict=True)}

    def _keep(self) -> None:
        repeat, step, tokens = self._open
        size, token_bytes = self._sizes
        for request, held in tokens.items():
            blocks, filled = self._blocks[request], -(-held // size)
            assert filled <= blocks, f"request {request} has tokens beyond its blocks"
            if not blocks:  # all of its keys lie elsewhere
                continue
            last = held - (filled - 1) * size if held else 0
            head = repeat, self._rank, step, request
            self._rows.append((*head, blocks, held, last, held * token_bytes))
        self._open = repeat, step, {}
