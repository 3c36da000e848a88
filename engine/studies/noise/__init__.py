"""Ablation and noise on reconstructions."""
