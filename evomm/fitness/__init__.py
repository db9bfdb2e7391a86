"""Floor 5: what a good answer is. Tasks hand out prompts, judge answers, and keep the score of every example."""
