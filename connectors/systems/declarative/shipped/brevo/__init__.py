"""Brevo: newsletter."""
