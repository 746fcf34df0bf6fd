"""Instances: their files, their refinement, their scores."""
