"""Scores of whole folders of label maps against their ground truth."""

from segfix.evaluation.compare import Comparison, evaluate_folders, score_image

__all__ = ["Comparison", "evaluate_folders", "score_image"]
