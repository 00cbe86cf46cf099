"""Where TFF computes, and what ends with a command."""
