"""Sweeps in Weights & Biases' format without an account: `python -m experiments.sweep configs/sweep/alpha.yaml`."""
