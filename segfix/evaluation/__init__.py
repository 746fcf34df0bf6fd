"""Scores of predictions against their ground truth: folders of label maps, and instances."""

from segfix.evaluation.compare import evaluate_folders
from segfix.evaluation.image_scores import score_image
from segfix.evaluation.totals import Comparison
from segfix.instances.by_image import is_instance_input
from segfix.instances.score import evaluate_instances

__all__ = [
    "Comparison",
    "evaluate_folders",
    "evaluate_instances",
    "is_instance_input",
    "score_image",
]
