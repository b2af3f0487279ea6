"""The loop all connectors share."""
