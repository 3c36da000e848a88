"""Text of any length through the model and its dictionaries, once, batch by batch."""
