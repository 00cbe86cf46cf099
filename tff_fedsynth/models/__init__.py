"""Models that can be unrolled, and fed synthetic inputs."""
