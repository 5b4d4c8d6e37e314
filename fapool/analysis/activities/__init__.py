"""What a trace's activities say by themselves, whatever program and profiler they come from."""
