"""Floor 6: searchers. They ask and are told; they see vectors in the unit cube and floats, and never evaluate."""
