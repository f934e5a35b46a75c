"""Checks and times the project on a GPU in one run of five minutes: `python -m experiments.gpu_check`."""

import time

STARTED = time.monotonic()  # before slow imports, whose time counts too
