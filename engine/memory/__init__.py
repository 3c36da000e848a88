"""Memory: what is needed, what there is, and where dictionaries are kept."""
