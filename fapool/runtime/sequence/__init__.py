"""Causal attention of one long prompt whose tokens lie sharded over the ranks of a group."""
