"""What a compressor of updates is, and what compressors are made of."""
