"""Checks and times the project on a GPU in one run of five minutes: `python -m experiments.gpu_check`."""
