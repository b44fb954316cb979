"""Logits to a trained model: the loop, optimization, evaluation, checkpoints, reports."""
