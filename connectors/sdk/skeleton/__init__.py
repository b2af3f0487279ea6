"""Skeleton: what the system is, in a line."""
