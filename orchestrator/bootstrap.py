"""The only place that joins things."""
