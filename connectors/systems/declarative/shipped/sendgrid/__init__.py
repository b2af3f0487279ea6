"""SendGrid: newsletter."""
