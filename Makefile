# make run    set up and serve the page on http://127.0.0.1:7860
# make test   set up and run every check: lint, format, types, imports, tests
# make lint   the checks without the tests
# make docs   write the generated parts of the two READMEs
#
# The first time either makes .venv; later only when pyproject.toml or constraints.txt changed.
# Another Python: make run PYTHON=/path/to/python3.12        Another port: make run PORT=7861

PORT ?= 7860
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable

.PHONY: run test lint docs clean

run: $(VENV)/.run-ready
	$(BIN)/python app.py --port $(PORT)

test: lint
	$(BIN)/pytest

lint: $(VENV)/.test-ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports

docs: $(VENV)/.test-ready
	$(BIN)/python -m tuner.reference

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed (none found; name one with PYTHON=...)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run-ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what EasyAnimate Tuner needs into $(VENV) ..."
	$(INSTALL) .
	@touch $@

$(VENV)/.test-ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what EasyAnimate Tuner and its tests need into $(VENV) ..."
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.run-ready
