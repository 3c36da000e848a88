"""Forms in which dictionaries lie on disk: a module per form, each giving the one `engine.dictionary.Dictionary`."""
