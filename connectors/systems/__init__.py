"""One folder per outside system; the same file names in each."""
