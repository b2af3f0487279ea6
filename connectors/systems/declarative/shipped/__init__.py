"""Systems that need a file and no code, each with its stand-in."""
