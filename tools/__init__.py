"""Small programs for maintainers: what they write is checked by tests."""
