"""The token table."""
