"""What --help prints."""
