"""What goes on beside the steps of a run: figures, checkpoints, samples, its end."""
