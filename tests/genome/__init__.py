"""Floor 3: blocks, genes, and vectors to recipes and back."""
