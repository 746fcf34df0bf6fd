"""Scores of whole folders of label maps against their ground truth."""

from segfix.evaluation.compare import Scores, evaluate_folder

__all__ = ["Scores", "evaluate_folder"]
