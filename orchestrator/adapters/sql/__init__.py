"""The store on SQL: SQLite for one worker and no set-up, PostgreSQL for more."""
