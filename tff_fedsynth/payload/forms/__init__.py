"""What learned numbers stand for."""
