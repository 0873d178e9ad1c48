# Two commands for a new machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= $(shell for one in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$one; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint unit bench soak clean

demo: $(VENV)/installed
	$(BIN)/harvest demo

test: lint unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/installed-dev
	$(BIN)/pytest

# Figures against named peers, as ratios; peers that are not installed are said and left out.
bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/prometheus.py
	$(BIN)/python benchmarks/slowlog.py
	$(BIN)/python benchmarks/differ.py
	$(BIN)/python benchmarks/footprint.py

# Long runs with faults: kill -9 at any moment.
soak: $(VENV)/installed-dev
	$(BIN)/python benchmarks/soak_store.py
	$(BIN)/python benchmarks/soak_daemon.py

$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "harvester needs Python 3.11 or newer; none was found. make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,postgres]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache artifacts
