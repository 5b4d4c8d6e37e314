"""The runtime of one rank: model, KV cache, partial attention, exchange, plans, engine."""
