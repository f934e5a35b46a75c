"""Programs made of the three packages; each runs as `python -m experiments.NAME`."""
