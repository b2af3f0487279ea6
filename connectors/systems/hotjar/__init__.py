"""Hotjar: look one person up by address or user id, and delete what is found."""
