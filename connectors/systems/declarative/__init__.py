"""Systems described in a file instead of in code."""
