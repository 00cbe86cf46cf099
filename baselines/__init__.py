"""Compressors of model updates to compare with, as `tff.aggregators` factories."""
