"""HubSpot: contacts and e-mail subscriptions."""
