"""The deep level: each kernel in the span that launched it, and a step's breakdown from those."""
