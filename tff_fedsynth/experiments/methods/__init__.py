"""What clients upload, by name, and how it is built from flags."""
