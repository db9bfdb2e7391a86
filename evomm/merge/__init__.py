"""Floor 2: what is done to tensors. Knows names, numbers and recipes; knows no model."""
