"""Numbers with their nouns."""

from __future__ import annotations


def count(number: int, noun: str, plural: str = "s") -> str:
    """`1 pass`, `1,024 passes` (with `plural` "es")."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"
