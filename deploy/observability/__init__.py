"""Alerts, dashboard and thresholds, generated from the vocabulary of metrics."""
