"""What a client does: local training, and learning its synthetic data."""
