"""The steering study."""
