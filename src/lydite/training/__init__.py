"""Training: batches, objectives, checkpoints and the one loop."""
