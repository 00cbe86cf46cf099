"""What the server does: collects payloads, defends, averages, steps."""
