"""Concept coverage."""
