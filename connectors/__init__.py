"""Connectors: one per system, on a kit that knows none of them by name."""
