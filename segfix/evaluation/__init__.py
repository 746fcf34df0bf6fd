"""Scores of predictions against their ground truth: folders of label maps, and instances."""

from segfix.evaluation.compare import Scores, evaluate_folder
from segfix.evaluation.instances import evaluate_instances, is_instance_input

__all__ = ["Scores", "evaluate_folder", "evaluate_instances", "is_instance_input"]
