"""LinkedIn: a person taken out of matched audiences, by the hash of the address."""
