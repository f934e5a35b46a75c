"""Every table and figure of the paper, from the results of this project's own runs: `python -m experiments.tables`."""
