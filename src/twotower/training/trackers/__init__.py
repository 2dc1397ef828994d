"""Trackers: callbacks that take a whole run (settings, curves, test, card) to TensorBoard, MLflow, Weights & Biases."""
