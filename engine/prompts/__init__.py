"""Data sets of prompts: built from templates, read from files, and checked against a tokenizer."""
