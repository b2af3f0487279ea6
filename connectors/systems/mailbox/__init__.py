"""A mailbox behind IMAP: messages found by their headers' addresses, exported whole, expunged or moved to the trash."""
