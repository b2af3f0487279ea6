"""Ledger of disclosures: who was given personal data, and must be told of a change."""
