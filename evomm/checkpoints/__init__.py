"""Floor 1: where tensors come from and go to."""
