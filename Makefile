# Everything runs in .venv, which `make` itself sets up from a bare python3.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo ui test test-slow bench lint format code-versions constraints clean

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox]'
	@touch $(STAMP)

# One stamp per extra, so that the demo installs no test tools.
$(VENV)/.test: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox,test]'
	@touch $@

$(VENV)/.lint: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox,test,lint]'
	@touch $@

$(VENV)/.bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox,bench]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/geostack demo

ui: $(STAMP)
	@$(BIN)/geostack ui

test: $(VENV)/.test
	@$(BIN)/python -m pytest -m 'not slow and not browser' -q

test-slow: $(VENV)/.test
	@$(BIN)/python -m pytest -m 'slow or browser' -q

bench: $(VENV)/.bench
	@$(BIN)/python -m benchmarks

lint: $(VENV)/.lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.lint
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

code-versions:
	@$(PYTHON) scripts/code_versions.py

# Exact versions of everything the project and its tools install, from a fresh environment.
constraints:
	@rm -rf $(VENV)-constraints && $(PYTHON) -m venv $(VENV)-constraints
	@$(VENV)-constraints/bin/python -m pip install --quiet --disable-pip-version-check -e '.[sandbox,test,lint,bench]'
	@$(VENV)-constraints/bin/python -m pip freeze --exclude-editable > constraints.txt
	@rm -rf $(VENV)-constraints

clean:
	rm -rf .geostack .dagster .tmp_dagster_home_*
