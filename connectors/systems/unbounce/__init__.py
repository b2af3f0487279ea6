"""Unbounce: leads of landing pages and of event registration, found by reading them all."""
