"""Training: run description, step, loop, checkpoint."""
