"""How long rounds, and what a server does in them, take."""
