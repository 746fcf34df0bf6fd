"""SegFix: cleans up the boundaries of any model's label maps."""

__version__ = "0.1.0"
