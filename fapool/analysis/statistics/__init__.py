"""What the units of a run carry: intervals, tests, and plain doubts."""
