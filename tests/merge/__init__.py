"""Floor 2: methods, recipes, and the two ways to carry one out."""
