"""Cookie identifiers: the website's own map from a visitor's cookie to analytics ids and persons."""
