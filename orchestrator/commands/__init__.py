"""The commands of `dsr`, one file per group; joined in `orchestrator.cli`."""
