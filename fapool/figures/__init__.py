"""Draw: a table in, a matplotlib figure out. Computes nothing that a number could be wrong in."""
