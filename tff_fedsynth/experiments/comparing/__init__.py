"""Methods at equal bytes."""
