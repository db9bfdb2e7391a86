"""The tests; folders mirror evomm/."""
