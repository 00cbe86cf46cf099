"""Models of the experiments, by name."""
