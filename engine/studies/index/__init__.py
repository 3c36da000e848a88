"""The corpus index as a study."""
