"""The session file: what was asked, what was found, and how to run it again."""
