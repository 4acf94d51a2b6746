"""Experiments on risks in high dimension: finite sizes beside the static theories, and a small real data set."""
