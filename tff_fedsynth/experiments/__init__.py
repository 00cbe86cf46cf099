"""Commands: thin files, each with a module beside it that does the work."""
