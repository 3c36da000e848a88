"""The check-up: whether dictionaries belong to their model, measured beside what was published."""
