"""Checks and times the project on a GPU in one call of five minutes: `python -m experiments.gpu_check`."""

import time

STARTED = time.monotonic()  # before anything large is loaded, which counts, too
