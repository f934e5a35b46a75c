"""`python -m experiments.benchmark`."""

from experiments.benchmark.run import run_benchmark

if __name__ == "__main__":
    run_benchmark()
