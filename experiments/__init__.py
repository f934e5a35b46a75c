"""Programs built on the three packages; each runs as `python -m experiments.NAME`."""
