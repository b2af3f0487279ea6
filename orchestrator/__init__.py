"""The orchestrator: one request in, every system told, one confirmation out."""
