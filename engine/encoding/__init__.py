"""How dictionaries make activations of what they read: a module per part, put together by `engine.dictionary`."""
