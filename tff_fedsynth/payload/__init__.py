"""What crosses the network, for both sides."""
