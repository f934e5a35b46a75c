"""The command line: `python -m experiments.tables NAME... [--run]`."""

import sys

from experiments.tables.command import run_tables

if __name__ == "__main__":
    try:
        run_tables()
    except (ValueError, OSError, RuntimeError) as error:  # the message says it all; what is done is on disk
        sys.exit(f"error: {error}")
