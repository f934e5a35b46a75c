"""Rebuilds the paper's tables and figures from this project's own results: `python -m experiments.tables`."""
