"""What the shell needs from the world, as Protocols."""
