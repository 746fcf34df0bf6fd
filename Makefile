# Everything runs in .venv, which is made when first needed. PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install check fix coverage mutants fuzz cluster demo bench faults smoke clean

install: .venv/dev

.venv/base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/dev: .venv/base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev,examples]'
	@touch $@

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

fix: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cli.md: .venv/dev $(wildcard segfix/cli/*.py) tests/cli/reference.py
	$(BIN)/python tests/cli/reference.py cli.md

# Fails where a package has less than 90 % (pyproject.toml). The tests on a cluster are left out.
COVERED := geometry formats inference losses
coverage: .venv/dev
	$(BIN)/coverage run -m pytest -q -rN $(COVERED:%=tests/%) tests/cli
	failed=0; for package in $(COVERED); do \
		$(BIN)/coverage report --include="segfix/$$package/*" || failed=1; done; exit $$failed

# Small faults put in on purpose; tests/mutants.md says which of them no test can notice.
mutants: .venv/dev
	$(BIN)/python tests/mutants.py geometry losses

# Ten thousand broken files for every reader: an hour or so. build/fuzz keeps what should not have happened.
fuzz: .venv/dev
	$(BIN)/python tests/fuzz.py --files 10000

# Ray on a cluster of two nodes on this machine.
cluster: .venv/dev
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	$(BIN)/pytest -m cluster

demo: .venv/base
	$(BIN)/segfix demo --overwrite

bench: .venv/dev
	$(BIN)/python tests/bench/speed.py

# Kills the commands at many moments, fills their disk, and more: an hour. Root may mount small disks.
faults: .venv/dev
	$(BIN)/python tests/faults/faults.py --moments 100 --work build/faults

# The wheel without extras in a clean environment: help, predict, refine.
smoke: .venv/dev
	rm -rf build/smoke
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/smoke .
	$(PYTHON) -m venv build/smoke/env
	build/smoke/env/bin/python -m pip install --quiet build/smoke/*.whl
	cd build/smoke && env/bin/segfix --help > /dev/null && env/bin/segfix doctor && env/bin/segfix demo

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo offsets refined shown
