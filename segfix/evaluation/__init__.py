"""Scores of predictions against their ground truth: folders of label maps, and instances."""

from segfix.evaluation.compare import Comparison, evaluate_folders, score_image
from segfix.evaluation.instances import evaluate_instances
from segfix.formats.instances import is_instance_input

__all__ = [
    "Comparison",
    "evaluate_folders",
    "evaluate_instances",
    "is_instance_input",
    "score_image",
]
