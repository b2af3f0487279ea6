"""Zendesk: chat and tickets."""
