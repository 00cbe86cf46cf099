"""Refuses models that cannot be trained or replayed."""
