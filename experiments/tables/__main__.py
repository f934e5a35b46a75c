"""The command line: `python -m experiments.tables NAME... [--run]`."""

import sys

from experiments.tables.command import run_tables
from experiments.tables.execution import is_interrupt

if __name__ == "__main__":
    try:
        run_tables()
    except (KeyboardInterrupt, SystemExit) as error:
        if not is_interrupt(error):
            raise
        print("\nStopped. Nothing is lost: the same command goes on with what is left.", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    except (ValueError, OSError, RuntimeError) as error:  # the message says it all; what is done is on disk
        sys.exit(f"error: {error}")
