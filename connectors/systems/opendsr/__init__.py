"""A subsidiary, or any processor, that speaks OpenDSR 2.0 (formerly OpenGDPR): we are the controller that asks."""
