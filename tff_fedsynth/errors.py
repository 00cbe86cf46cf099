"""Errors that several parts raise, and that a user can mend."""


class UnsupportedModelError(ValueError):
  """A model that cannot be trained or replayed; the message says why."""
