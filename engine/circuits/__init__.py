"""Circuits: which features cause a metric, and how they feed one another."""
