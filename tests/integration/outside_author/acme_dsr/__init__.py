"""A connector by somebody else, found by its entry point: erasure as a vendor's job that takes a while."""
