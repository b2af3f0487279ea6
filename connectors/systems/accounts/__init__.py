"""Any SQL database of the company's own: accounts, web forms, invoices, by SQLAlchemy URL and a declared table map."""
