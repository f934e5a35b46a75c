"""Runs Weights & Biases sweeps without an account: `python -m experiments.sweep configs/sweep/alpha.yaml`."""
