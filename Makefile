# make setup   everything that developing needs, in .venv
# make demo    the main job from nothing: data, train, evaluate, check, index, recommend
# make wheel   the package in dist/, tried in an empty environment;  make pythons, make lowest: other versions of what it needs
# make long    the few tests that take half a minute each
# make mutants plants faults one at a time and says which of them the tests see (a quarter of an hour)
# make test    all checks;  make fast: format, lint and the core tests;  make docs: the documentation in site/

.DEFAULT_GOAL := help
.PHONY: help setup demo test fast lint tests ranks shapes long mutants docs clean wheel pythons lowest
.DELETE_ON_ERROR:

# Tests run in two processes and torch would start a thread a core in each.
export OMP_NUM_THREADS ?= 1
# Every pytest, worker and command of a test reads the compiled files of the first, also where the environment would keep none.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What is installed is as new as these two; a stamp remembers it. The stamp for developing covers that for running.
REQUIREMENTS := pyproject.toml constraints.txt
FOR_RUNNING := $(VENV)/.for-running
FOR_DEVELOPING := $(VENV)/.for-developing

# The files of tests marked so, to read these alone: reading all of them takes a process ten to twenty seconds.
FILES_OF_RANKS = $$(grep -rl --include='*.py' 'mark\.ranks' tests)

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

setup: $(FOR_DEVELOPING)

demo: $(FOR_RUNNING)
	env -u OMP_NUM_THREADS $(BIN)/twotower demo

# The first three fill two cores together, each of the others alone. Output stays in one piece a target where this make can do that.
test: $(FOR_DEVELOPING)
	$(MAKE) -j 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) ranks lint docs
	$(MAKE) tests shapes

fast: $(FOR_DEVELOPING)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest -n 2 -m "not slow and not browser and not gpu and not ranks"
	$(BIN)/pytest -m "ranks and not slow" $(FILES_OF_RANKS)

lint: $(FOR_DEVELOPING)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Together these three run every test once but those of `make long`; those of the fast core that hand over right types have every annotated type and
# shape checked at run time. `make fast` runs them without that.
tests: $(FOR_DEVELOPING)
	$(BIN)/pytest -n 2 --dist worksteal tests -m "(slow or browser or bad_input) and not (ranks or long)"

ranks: $(FOR_DEVELOPING)
	$(BIN)/pytest -m "ranks and not long" $(FILES_OF_RANKS)

shapes: $(FOR_DEVELOPING)
	$(BIN)/pytest -n 2 --dist worksteal -m "not (slow or browser or bad_input or ranks)" --jaxtyping-packages=twotower,beartype.beartype

# Not part of `make test`: a worker killed ten times and ranks twenty times, a fit within its budget, a whole benchmark and one of a cell that fails,
# a matrix of 2.3 GB, kernels that a C++ compiler makes.
long: $(FOR_DEVELOPING)
	$(BIN)/pytest -m "long and not ranks"
	$(BIN)/pytest -m "long and ranks" $(FILES_OF_RANKS)

# Not part of `make test`: benchmarks/mutants.toml is the list, and 95 % of it must be killed.
mutants: $(FOR_DEVELOPING)
	$(BIN)/python benchmarks/mutants.py

docs: $(FOR_DEVELOPING)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The package as a wheel in dist/; docs/how-to/install.md is then done word for word in an empty environment.
wheel: $(FOR_DEVELOPING)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) benchmarks/try_install.py dist/*.whl

# The fast core under each Python that is there; PyTorch for the CPU where PIP_EXTRA_INDEX_URL names its index.
pythons:
	@for name in python3.11 python3.12 python3.13 python3.14; do \
		$$name -c '' 2>/dev/null || { echo "$$name: not here"; continue; }; \
		$$name -m venv build/$$name && build/$$name/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,serve]' && \
		build/$$name/bin/pytest -n 2 -m "not slow and not browser and not gpu and not ranks" && \
		build/$$name/bin/pytest -m "ranks and not slow" $(FILES_OF_RANKS) || exit 1; \
	done

# The fast core with the lowest versions that pyproject allows.
lowest: | $(BIN)/python
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[dev,serve]'
	build/lowest/bin/pytest -n 2 -m "not slow and not browser and not gpu and not ranks"
	build/lowest/bin/pytest -m "ranks and not slow" $(FILES_OF_RANKS)

clean:
	rm -rf $(VENV) site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; install it, or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name another: make setup PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(FOR_RUNNING): $(REQUIREMENTS) | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(FOR_DEVELOPING): $(REQUIREMENTS) | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev,serve]'
	@touch $(FOR_RUNNING) $@
