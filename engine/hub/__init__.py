"""Dictionaries and models of a model hub: found on this machine, or fetched when that was asked for."""
