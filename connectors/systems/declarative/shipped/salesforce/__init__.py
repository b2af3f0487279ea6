"""Salesforce: CRM."""
