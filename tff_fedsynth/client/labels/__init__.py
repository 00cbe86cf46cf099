"""Solving for synthetic labels."""
