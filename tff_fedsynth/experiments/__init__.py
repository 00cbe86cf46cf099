"""Binaries: train, demo, benchmark."""
