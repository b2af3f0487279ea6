"""Google Analytics: deletion of one visitor, by the ids that the website gave it."""
