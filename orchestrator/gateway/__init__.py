"""HTTP beside the bus: health, metrics."""
