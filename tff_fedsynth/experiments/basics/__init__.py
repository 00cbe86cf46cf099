"""One run, and the demo."""
