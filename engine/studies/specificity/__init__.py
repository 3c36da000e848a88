"""Specificity and sensitivity."""
