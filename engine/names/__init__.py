"""Names of models and dictionaries: what they are called in the field, and where they lie."""
