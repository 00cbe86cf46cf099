"""Training on a client's real data."""
