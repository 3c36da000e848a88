"""Steering: interventions on features, generation with and without them, and the evidence of what they did."""
