"""`python -m experiments.sweep`."""

import sys

from experiments.sweep.run import run_command

if __name__ == "__main__":
    sys.exit(run_command())
