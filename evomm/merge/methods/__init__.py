"""The merge methods, one family to a file."""
