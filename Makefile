# `make demo` and `make test` do all the set-up themselves, on first use and whenever the requirements change.
# Everything is installed into .venv, with the versions of constraints.txt, from wherever this machine's pip looks:
# where that offers a CPU build of PyTorch 2.13.0, pip prefers it; to choose an index yourself, use pip's own settings.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types imports bench nightly install

help:
	@echo 'make demo      install, then fine-tune three encoders over twenty clients (m2fedsa run digits)'
	@echo 'make test      install, then run the tests'
	@echo 'make lint      style and format          make types     mypy      make imports   who may import whom'
	@echo 'make format    write the format          make bench     all benchmarks'
	@echo 'make nightly   every test, the slow ones too'

demo: $(STAMP)
	@$(BIN)/m2fedsa run digits

# One compute thread a worker: results do not depend on how many cores the machine has.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

nightly: $(STAMP)
	@M2FEDSA_NIGHTLY=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m '' -n 2 --dist worksteal

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP)
	@$(BIN)/mypy

imports: $(STAMP)
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: m2fedsa needs Python 3.11 or newer, $(PYTHON) is older. Try make PYTHON=python3.12 ...' >&2; exit 2; }
	@echo 'Installing m2fedsa and what it needs into $(VENV) (once; a few minutes, mostly PyTorch)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@
