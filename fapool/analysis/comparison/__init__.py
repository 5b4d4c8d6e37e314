"""Runs against each other: metric by metric, phase by phase, and what a protocol proves."""
