# Everything runs in .venv, which `make` itself sets up from a bare python3.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
comma  := ,

.PHONY: demo ui test test-slow bench lint format code-versions constraints clean

# uv installs in seconds what pip installs in minutes; where it cannot, pip does it.
define install
	@echo "installing $(1) into $(VENV) …"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(1)]' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
	@touch $@
endef

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv || true
	$(call install,sandbox)

# One stamp per purpose, so that the demo installs no test tools.
$(VENV)/.test: $(STAMP)
	$(call install,sandbox$(comma)test)

$(VENV)/.lint: $(STAMP)
	$(call install,sandbox$(comma)test$(comma)lint)

$(VENV)/.bench: $(STAMP)
	$(call install,sandbox$(comma)bench)

demo: $(STAMP)
	@$(BIN)/geostack demo

ui: $(STAMP)
	@$(BIN)/geostack ui

test: $(VENV)/.test
	@$(BIN)/python -m pytest -m 'not slow and not browser' -q -n 2 --dist loadfile --durations 60 --durations-min 2

# stac-api-validator pins libraries that this project pins otherwise: an environment of its own.
VALIDATOR := $(VENV)/stac-api-validator
$(VALIDATOR)/.installed: $(STAMP)
	@echo "installing stac-api-validator into $(VALIDATOR) …"
	@$(PYTHON) -m venv $(VALIDATOR)
	@$(VALIDATOR)/bin/python -m pip install --quiet --disable-pip-version-check stac-api-validator==0.6.8
	@touch $@

# In the order of tests/conftest.py: the files that take longest begin. Many of these tests wait (for daemons, browsers, servers
# that hang): three at a time keep two cores busy.
test-slow: $(VENV)/.test $(VALIDATOR)/.installed
	@STAC_API_VALIDATOR=$(VALIDATOR)/bin/stac-api-validator \
	  $(BIN)/python -m pytest -m 'slow or browser' -q -n 3 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 10

# mag1c needs torch, and is only run as a peer of the filters: an environment of its own.
$(VENV)/mag1c/.installed: $(VENV)/.bench
	@echo "installing mag1c and torch into $(VENV)/mag1c …"
	@$(PYTHON) -m venv $(VENV)/mag1c
	@$(BIN)/uv pip install --quiet --python $(VENV)/mag1c/bin/python numpy setuptools 'mag1c>=1.2.0' 'torch>=2.8'
	@touch $@

bench: $(VENV)/.bench $(VENV)/mag1c/.installed
	@GEOSTACK_MAG1C_PYTHON=$(VENV)/mag1c/bin/python $(BIN)/python -m benchmarks

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
	@$(VENV)-constraints/bin/python -m pip install --quiet --disable-pip-version-check uv -e '.[sandbox,test,lint,bench]'
	@$(VENV)-constraints/bin/python -m pip freeze --exclude-editable > constraints.txt
	@rm -rf $(VENV)-constraints

clean:
	rm -rf .geostack .dagster .tmp_dagster_home_*
