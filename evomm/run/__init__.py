"""Floor 7: runs. The loop, the store that remembers it, and the config that says what to do."""
