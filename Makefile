# `make demo` sets up and runs the main job; `make test` sets up and passes the checks.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STUDIES := $(VENV)/.studies

.PHONY: demo test lint types unit format clean

demo: $(STUDIES)
	$(BIN)/gradreg compare digits

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

unit: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What studies need alone, with the newest torch that was tested, as in the dev extra. The stamps come last, so a broken
# install is tried again.
$(STUDIES): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[study]' 'torch<2.14'
	touch $@

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
