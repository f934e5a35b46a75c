"""Checks and describes data sets on disk: `python -m experiments.check_data`."""
