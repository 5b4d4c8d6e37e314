"""What a run looks like from inside: spans, clocks, memory, profiler windows, environment."""
