"""Palettes as data, Textual themes, and every style sheet."""
