# Everything runs in .venv, which is made when it is missing or older than pyproject.toml or
# constraints.txt. ARGS= passes more words on: make test ARGS="-k latents -x".

PYTHON ?= $(shell command -v python3.11 || command -v python3)
SPACE ?= shakespeare
ARGS ?=
PROCESSES ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

# bytecode is kept: without it each process compiles tests and package anew, for half a minute in all
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install sweep test test-all chaos slurm lint format bench clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name text; do \
		printf 'make %-8s  %s\n' "$$name" "$$text"; done

install: $(STAMP) ## make .venv with the tested versions
	@echo "ready: source $(BIN)/activate"

sweep: $(STAMP) ## run the search search_spaces/SPACE.py (SPACE=shakespeare)
	$(BIN)/python tune_search.py $(SPACE) $(ARGS)

test: $(STAMP) ## run the tests but the slow ones (gpu ones: ARGS="-m gpu"; to debug: PROCESSES=0)
	$(PYTEST) $(ARGS)

test-all: $(STAMP) ## run all tests, the slow ones too (minutes each), but those of a GPU
	$(PYTEST) -m "not gpu" $(ARGS)

chaos: $(STAMP) ## kill parts of a cluster twenty times during one sweep; print what was survived
	$(BIN)/python -m tests.chaos.twenty $(ARGS)

slurm: $(STAMP) ## run sweeps on a real Slurm of three nodes on this machine (as root; installs Debian's)
	@command -v slurmctld >/dev/null || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 >/dev/null; }
	timeout 1200 $(BIN)/python -m pytest -m slow tests/chaos/slurm $(ARGS)

lint: $(STAMP) ## check style, types and the order of imports; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure speed, quickly (in full: ARGS=--full); tables in results/bench/
	$(BIN)/python benchmarks $(ARGS)

clean: ## remove .venv and caches; results and data stay
	rm -rf $(VENV) $(VENV).lock build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . \( -path ./.git -o -path ./results -o -path ./data \) -prune -o \
		-name __pycache__ -prune -exec rm -rf {} +

# A second make that comes while .venv is being made waits (where flock exists) and then finds it
# made. The stamp is written last, so an install that was cut short is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 found; say make PYTHON=..." >&2; exit 1; }
	@if command -v flock >/dev/null; then exec 9>$(VENV).lock; flock 9; fi; \
	if [ $@ -nt pyproject.toml ] && [ $@ -nt constraints.txt ]; then exit 0; fi; \
	echo "making $(VENV) ... (about 2 minutes; downloads about 500 MB once, more where pip picks torch for CUDA)"; \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[all]' && \
	touch $@ && echo "made $(VENV)"
