"""Universality: two sides beside one another."""
