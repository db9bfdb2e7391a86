"""Floor 3: named, bounded coefficients, and how they become recipes."""
