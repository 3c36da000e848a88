"""The Textual app. It knows the engine only through its protocol."""
