"""What stays on disk: rows, locks, checkpoints, the code that made them."""
