"""Mailchimp: newsletter audiences and their members."""
