"""Which payloads fit a model and a budget."""
