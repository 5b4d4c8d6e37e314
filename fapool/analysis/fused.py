"""Kernels of ours that communicate and compute in one, by name."""

FUSED = {
    "ask": "sends queries and new keys",
    "queries": "waits for queries, stores new keys",
    "answer": "sends partials",
    "collect": "waits for partials, merges them",
    "small_sum": "sends, waits and sums",
}
"""They belong to their span, and are listed as expected where it is no span of communication."""
