"""Training losses, one paper per file, for our trainer and anyone's own."""

from segfix.losses.segfix import SegFixLoss, segfix_loss

__all__ = ["SegFixLoss", "segfix_loss"]
