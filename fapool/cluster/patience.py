"""How long to wait, for what: every time limit of the cluster in one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds."""

    loading_s: float = 120  # without a word of any rank, outside of the measured part
    running_s: float = 60  # the same, while the measured part goes on
    peers_s: float = 2  # for the others to return by themselves after one rank has failed
    answer_s: float = 30  # for an idle rank to answer a short question
    client_s: float = 30  # that processes outlive their client, so that another may take over
