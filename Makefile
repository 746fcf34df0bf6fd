# Everything runs in .venv, which is made when first needed. PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
# What `make check` installs, file by file with its SHA-256; `make check LOCK=` takes the newest.
LOCK ?= .ci/requirements.lock

# Hundreds of the tests' processes import the package; without bytecode each compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install lock check fix coverage mutants fuzz cluster demo bench faults smoke release clean

install: .venv/dev

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/base: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# Wheels alone, as building from source runs code that no checksum covers.
.venv/dev: .venv/pyvenv.cfg pyproject.toml $(LOCK)
ifeq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --editable '.[dev,examples]'
else
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --only-binary :all: -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endif
	@touch $@

# Versions that are locked stay; to take newer ones, remove the file first. uv asks its own index.
lock: .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' --extra dev --extra examples pyproject.toml \
		--output-file .ci/requirements.lock

# One thread for each process of the tests: more only wait for each other. Slow files come
# first (tests/conftest.py), not those of many tests, or in the end one core waits.
check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

fix: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cli.md: .venv/dev $(wildcard segfix/cli/*.py) tests/cli/reference.py
	$(BIN)/python tests/cli/reference.py cli.md

# Fails where a package has less than 90 % (pyproject.toml). The tests on a cluster are left out.
COVERED := geometry files formats refinement network jobs instances tasks losses
coverage: .venv/dev
	$(BIN)/coverage run -m pytest -q -rN tests/geometry tests/files tests/formats tests/refinement tests/network tests/jobs tests/instances \
		tests/losses tests/cli
	failed=0; for package in $(COVERED); do \
		$(BIN)/coverage report --include="segfix/$$package/*" || failed=1; done; exit $$failed

# Small faults put in on purpose; tests/mutants.md says which of them no test can notice.
mutants: .venv/dev
	$(BIN)/python tests/mutants.py geometry losses

# Ten thousand broken files for every reader: an hour or so. build/fuzz keeps what should not have happened.
fuzz: .venv/dev
	$(BIN)/python -m tests.fuzz.run --files 10000

# Ray on a cluster of two nodes on this machine.
cluster: .venv/dev
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	$(BIN)/pytest -m cluster

demo: .venv/base
	$(BIN)/segfix demo --overwrite

# `make bench BEFORE=FILE` puts the ratios of an earlier build/speed.json beside the new ones.
bench: .venv/dev
	$(BIN)/python tests/bench/speed.py $(if $(BEFORE),--before $(BEFORE))

# Kills the commands at many moments, fills their disk, and more: an hour. Root may mount small disks.
faults: .venv/dev
	$(BIN)/python tests/faults/faults.py --moments 100 --work build/faults

# The wheel in a clean environment without extras: help, doctor, predict, refine, and what they gain.
smoke: .venv/dev
	rm -rf build/smoke
	$(BIN)/python -m hatchling build --directory build/smoke
	$(BIN)/python tests/smoke.py build/smoke/*.tar.gz build/smoke/*.whl

# What is to be published of a commit with the tag of its version, in dist/; publishes nothing.
release: .venv/dev
	$(BIN)/python tests/release.py
	$(BIN)/python tests/smoke.py dist/*.tar.gz dist/*.whl

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo offsets refined shown
