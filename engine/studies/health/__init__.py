"""Dictionary health."""
