"""Log files of the web servers: lines found by address, cookie or account, in plain and compressed files."""
