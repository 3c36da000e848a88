"""What people and models say features are: one local store with full-text search, and what fills it."""
