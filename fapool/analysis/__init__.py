"""Compute: a run in, tables out. Opens on a laptop, without torch; draws nothing."""
