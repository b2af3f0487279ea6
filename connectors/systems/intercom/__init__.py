"""Intercom: the chat on the website: contacts (users and leads) and their conversations."""
