PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# A stamp is older than what it was installed from only if that has changed since.
SWEEP_INSTALLED := $(VENV)/.installed-sweep
TEST_INSTALLED := $(VENV)/.installed-test
PYTEST := $(BIN)/python -m pytest
TWO := --numprocesses 2 --dist loadscope
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt -e

# Two pip processes must not change one environment at once.
.NOTPARALLEL:
.PHONY: install install-test sweep test test-all faults quick-faults jobs mutations fuzz kills pictures lint format clean

install: $(SWEEP_INSTALLED)

install-test: $(TEST_INSTALLED)

sweep: $(SWEEP_INSTALLED)
	$(BIN)/decrop sweep quickstart

# What every change must pass. Sweeps take all of a machine, so they go one after another.
test: $(TEST_INSTALLED)
	OMP_NUM_THREADS=1 $(PYTEST) $(TWO) -m 'not slow and not ray and not faults'
	$(PYTEST) -m 'ray and not slow' tests/tune

# Before a change is given away: an hour.
test-all: $(TEST_INSTALLED)
	OMP_NUM_THREADS=1 $(PYTEST) $(TWO) --hypothesis-profile default -m 'not ray and not faults'
	$(PYTEST) -m ray
	$(PYTEST) -m faults tests/faults

# A running sweep broken on purpose; some of these tests need root, to mount and for networks.
faults: $(TEST_INSTALLED)
	$(PYTEST) -m faults tests/faults

quick-faults: $(TEST_INSTALLED)
	$(PYTEST) -m quick tests/faults

# A sweep submitted as a Ray job to two hosts. Ray's dashboard, which takes jobs, needs packages that
# all other tests do without.
jobs: $(TEST_INSTALLED)
	$(INSTALL) '.[cluster]'
	$(PYTEST) -m faults tests/faults/test_two_hosts.py -k job

# By hand, half an hour: 40 faults planted in the code, which the tests must catch.
mutations: $(TEST_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutations

# Four minutes or more; of what it tries, and found last, tests/README.md has a table.
fuzz: $(TEST_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --count 1000 --seed 0

# By hand: it takes an hour of two cores, and goes on where it was stopped.
kills: $(TEST_INSTALLED)
	$(BIN)/python -m tests.faults.kills --kills 100 --seed 0

# The README's pictures, of a quickstart that runs first: minutes.
pictures: $(TEST_INSTALLED)
	$(BIN)/python -m tests.pictures

lint: $(TEST_INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TEST_INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -print | xargs rm -rf

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(SWEEP_INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[sweep]'
	touch $@

# The test extra contains the sweep extra.
$(TEST_INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[test]'
	touch $@ $(SWEEP_INSTALLED)
