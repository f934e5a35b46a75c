"""What data sets on disk hold, and what is wrong with them: `python -m experiments.check_data`."""
