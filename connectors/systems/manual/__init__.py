"""Whatever people do by hand: an order becomes a task, and only a signed-off answer ends it."""
