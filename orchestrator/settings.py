"""What can be set, from environment variables that start with `DSR_`."""
