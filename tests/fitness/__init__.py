"""Floor 5: what a good answer is."""
