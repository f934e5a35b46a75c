"""Time, memory and operations of every method beside a plain loop: `python -m experiments.benchmark`."""
