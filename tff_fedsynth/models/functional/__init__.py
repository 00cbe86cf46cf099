"""Keras models as functions of their weights."""
