"""Pictures and texts of results."""
