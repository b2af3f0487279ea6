"""Eventbrite: attendees and orders read by API; what the API cannot change a person changes, and the API proves it."""
