"""One third-party library per file; they know ports and schemas, never the core."""
