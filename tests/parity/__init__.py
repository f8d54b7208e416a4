"""Every architecture's logits against an independent reference, on tiny random checkpoints."""
