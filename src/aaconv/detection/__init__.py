"""Detectors: recipes, runs, COCO's figures, evaluation and prediction."""
