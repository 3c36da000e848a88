"""Logit effects."""
