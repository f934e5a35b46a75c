"""Samples to a trained network, and its scores."""
