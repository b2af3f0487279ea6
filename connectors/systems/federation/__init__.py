"""A subsidiary that runs its own orchestrator: we are one of its portals, on its Kafka."""
