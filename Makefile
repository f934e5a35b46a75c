# Everything runs in .venv, which `make setup` builds. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Output of pip worth showing: what it downloads above a megabyte, then that it installs.
PIP_NEWS := ^ *(Downloading|Using cached) .*\([0-9.]+ [MG]B\)|^Installing collected packages

# Interpreters tried in this order when PYTHON is not given; the first that is new enough and can make environments.
PYTHONS := python3.11 python3.12 python3.13 python3 python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# Extra arguments: make demo DEMO_ARGS="--quick", make test TEST_ARGS="-k layering".
DEMO_ARGS ?=
COMPARISON_ARGS ?=
BENCH_ARGS ?=
TABLES_ARGS ?= all
GPU_CHECK_ARGS ?=
TEST_ARGS ?=

# albumentations otherwise asks the network for newer versions whenever it is imported.
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help
help: ## List the targets
	@echo "Usage: make TARGET [PYTHON=python3.12] [DEMO_ARGS=\"--quick\"] [TEST_ARGS=\"-k name\"]"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Create .venv and install the project with the versions in constraints.txt
	@echo "Environment ready in $(VENV)."

$(STAMP): pyproject.toml constraints.txt
	@if $(BIN)/python -c '$(USABLE)' >/dev/null 2>&1; then exit 0; fi; \
	python=; \
	for candidate in $(or $(PYTHON),$(PYTHONS)); do \
	    if "$$candidate" -c '$(USABLE)' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    { echo "error: segadapt needs Python 3.11 or newer with its venv and ensurepip modules. Found:"; \
	    for candidate in $(or $(PYTHON),$(PYTHONS)); do \
	        found=$$("$$candidate" --version 2>/dev/null) || found="not found, or does not start"; \
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	            found="$$found, but venv or ensurepip is missing (on Debian and Ubuntu: install python3-venv)"; \
	        fi; \
	        echo "  $$candidate: $$found"; \
	    done; \
	    echo "Install one, or name it: make setup PYTHON=/path/to/python3.11"; } >&2; \
	    exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version) ..."; \
	"$$python" -m venv --clear $(VENV)
	@echo "Installing dependencies (about 2 minutes and 6 GB the first time) ..."
	@$(PIP) install --no-compile --constraint constraints.txt --editable '.[dev]' \
	    | { grep --line-buffered -oE '$(PIP_NEWS)' || true; }
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Train, adapt and compare the methods on generated street scenes (DEMO_ARGS="--quick": a short run)
	@$(BIN)/python -m experiments.demo $(DEMO_ARGS)

.PHONY: demo-seeds
demo-seeds: $(STAMP) ## The demo over three training seeds: mean and spread
	@$(BIN)/python -m experiments.demo --seeds 0 1 2 $(DEMO_ARGS)

.PHONY: comparison
comparison: $(STAMP) ## Train and test every network with every method on generated scenes: docs/results.md (2 hours)
	@$(BIN)/python -m experiments.comparison --page docs/results.md $(COMPARISON_ARGS)

.PHONY: tables
tables: $(STAMP) ## Build the paper's tables and figures (TABLES_ARGS="all --run --world street_scenes --jobs 2": two to three hours)
	@$(BIN)/python -m experiments.tables $(TABLES_ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure time, memory and operations of the methods (BENCH_ARGS="--quick": a tiny run)
	@$(BIN)/python -m experiments.benchmark $(BENCH_ARGS)

.PHONY: gpu-check
gpu-check: $(STAMP) ## Check and time everything on a GPU (GPU_CHECK_ARGS="--device cpu --tiny": a tiny run)
	@$(BIN)/python -m experiments.gpu_check $(GPU_CHECK_ARGS)

.PHONY: docs
docs: $(STAMP) ## Build the documentation into build/site (open build/site/index.html); a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Documentation in build/site/index.html"

.PHONY: docs-serve
docs-serve: $(STAMP) ## Show the documentation in a browser while it is written
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

.PHONY: browser
browser: ## Install Chromium for the tests of the HTML report, if it is missing and may be installed
	@if command -v chromedriver >/dev/null && command -v chromium chromium-browser google-chrome >/dev/null; then \
	    echo "Chromium is there."; \
	elif [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "No Chromium found: the tests of the report in a browser will be skipped. To run them, install Chromium and"; \
	    echo "its driver (on Debian and Ubuntu, as root: apt-get install chromium chromium-driver)."; \
	elif { timeout 300 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 900 apt-get install --yes \
	    --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 </dev/null; then \
	    echo "Chromium installed."; \
	else \
	    echo "Chromium could not be installed (no network?): the tests of the report in a browser will be skipped."; \
	fi

# Two processes of one thread each; one that runs out of tests takes over half of what the other has left.
WORKERS := -n 2 --dist worksteal

.PHONY: test
test: $(STAMP) ## Run the tests, without the slow ones
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(TEST_ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## Run the slow tests
	@$(BIN)/python -m pytest $(WORKERS) -m slow $(TEST_ARGS) || [ $$? -eq 5 ] # 5: there are none

.PHONY: lint
lint: $(STAMP) ## Check style (ruff), format (ruff) and types (mypy)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format: $(STAMP) ## Reformat the code and apply safe style fixes
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: lock
lock: ## Rewrite constraints.txt with the newest versions that pyproject.toml allows (run `make test` after it)
	@rm -rf build/lock
	@$(or $(PYTHON),python3.11) -m venv build/lock
	@echo "Installing the newest versions into a temporary environment (some minutes) ..."
	@build/lock/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --editable '.[dev]'
	@{ sed -n '/^#/p;/^[^#]/q' constraints.txt | sed -E \
	    "s/[0-9]{4}-[0-9]{2}-[0-9]{2}, Python [0-9]+(\.[0-9]+)*/$$(date +%F), Python $$(build/lock/bin/python -c 'import platform; print(platform.python_version())')/"; \
	    build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude segadapt \
	    | sed -nE 's/^([A-Za-z0-9_.-]+==[^+ ]+).*/\1/p' | LC_ALL=C sort -f; } > build/constraints.new
	@mv build/constraints.new constraints.txt
	@rm -rf build/lock
	@echo "constraints.txt rewritten. Review it (git diff), then: make test lint"

.PHONY: clean
clean: ## Remove caches and build leftovers; outputs/ and .venv stay
	rm -rf build dist segadapt.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -path ./outputs -prune -o -type d -name __pycache__ -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Also remove .venv; outputs/ stays
	rm -rf $(VENV)
