"""The command line's longer commands. `main.py` registers them; nothing heavy is imported before one runs."""
