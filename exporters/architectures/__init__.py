"""Networks that are recognized by the names and shapes of their weights."""
