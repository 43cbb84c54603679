# `make demo` and `make test` do everything on a fresh machine with Python 3.11.
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin
STAMP := .venv/.ready
REQUIREMENTS := $(wildcard requirements/*.txt)

.PHONY: setup demo test lint

setup: $(STAMP)

$(STAMP): setup.py pyproject.toml $(REQUIREMENTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements/mminstall.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python tools/demo.py --seed $(SEED)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

lint: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" pre-commit run --all-files
