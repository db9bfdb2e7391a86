"""Floor 1: reading, writing, finding and fingerprinting model folders."""
