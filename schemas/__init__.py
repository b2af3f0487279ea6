"""Words that two sides share."""

__version__ = "0.1.0"
