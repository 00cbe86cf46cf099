"""What settings of FedSynth cost and bring."""
