"""Clients that lie, and servers that are curious."""
