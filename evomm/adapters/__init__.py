"""Floor 4: the only code that knows what kind of model it holds. Five verbs each: blocks, check, load, generate, save."""
