"""Side-by-side measurements against peers; each module prints a table."""
