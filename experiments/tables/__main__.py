"""The command line: `python -m experiments.tables NAME... [--run]`."""

from experiments.tables.command import run_tables

if __name__ == "__main__":
    run_tables()
