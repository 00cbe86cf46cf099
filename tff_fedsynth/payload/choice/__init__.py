"""A message in one of two ways."""
