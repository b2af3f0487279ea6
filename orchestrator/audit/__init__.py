"""The offline auditor: a second opinion that shares no code with the core."""
