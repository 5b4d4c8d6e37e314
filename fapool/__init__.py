"""fapool: measure when it pays to lend extra GPUs to attention."""

__version__ = "0.1.0"
