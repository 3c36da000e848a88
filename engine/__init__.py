"""The model and its dictionaries: tensors in, plain results out. Knows nothing of any screen."""
