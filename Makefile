# `make` prints this list. Needs only Python 3.11+ and make: the first target that needs it creates
# .venv from the lock file, and does so again only when a lock file or pyproject.toml changes.

LOCK ?= requirements.lock
DEV_LOCK := requirements-dev.lock
VENV := .venv
PY := $(VENV)/bin/python
# Best tested first; `make run PYTHON=/path/to/python3.12` uses that one.
PYTHON ?= python3.11 python3.12 python3.13 python3
ARGS ?=

RUN_STAMP := $(VENV)/.installed-$(notdir $(LOCK))
DEV_STAMP := $(VENV)/.installed-$(DEV_LOCK)
TOOLS := build/tools
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# Nobody is told that this software runs; one thread per process, so that figures can be compared.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0
test test-all bench: export OMP_NUM_THREADS := 1
test test-all bench: export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help run test test-all check bench hashed-lock wheelhouse sbom

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

run: $(RUN_STAMP) ## the quickstart: five hospitals learn together (ARGS="CONFIG --set key=value")
	$(PY) simulations/run.py $(ARGS)

test: $(DEV_STAMP) ## all tests that are not slow, two files at once (ARGS="tests/server -k quorum")
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-all: $(DEV_STAMP) ## all tests, the slow ones too
	$(PY) -m pytest $(ARGS)

check: $(DEV_STAMP) ## style, types and import rules
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: $(DEV_STAMP) ## the benchmarks and the fault campaign: two tables, about an hour and a half
	$(PY) -m tests.benchmarks $(ARGS)
	$(PY) -m tests.faults

hashed-lock: $(TOOLS) ## requirements-hashed.lock: every file's hash (PIP_EXTRA_INDEX_URL: PyTorch's CPU index)
	{ sed -n '/^[^#]/q;p' requirements-hashed.lock; \
	  $(TOOLS)/bin/uv pip compile requirements.lock --no-deps --generate-hashes --python-version 3.11 \
	    --index-strategy unsafe-best-match --no-annotate --no-header --quiet \
	    $${PIP_EXTRA_INDEX_URL:+--extra-index-url "$$PIP_EXTRA_INDEX_URL"}; } > build/lock
	mv build/lock requirements-hashed.lock

wheelhouse: $(RUN_STAMP) ## all wheels in build/wheelhouse, to install without a network (PIP_EXTRA_INDEX_URL as above)
	$(PIP) download --no-deps --require-hashes --only-binary :all: -r requirements-hashed.lock -d build/wheelhouse
	$(PIP) wheel --no-deps --no-build-isolation -w build/wheelhouse .
	cp requirements-hashed.lock build/wheelhouse/

sbom: $(TOOLS) ## build/sbom.json: what is installed, as CycloneDX
	$(TOOLS)/bin/cyclonedx-py requirements requirements-hashed.lock --pyproject pyproject.toml \
	  --output-reproducible --sv 1.6 --of JSON -o build/sbom.json

$(TOOLS): | $(PY)
	$(PY) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check --quiet install uv==0.13.9 cyclonedx-bom==7.5.0

$(PY):
	@for python in $(PYTHON); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "creating $(VENV) with $$python"; \
	  "$$python" -m venv --clear $(VENV) && exit 0; \
	  rm -rf $(VENV); \
	  echo "$$python cannot create a virtual environment (Debian: install python3-venv)" >&2; \
	done; \
	echo "fedward needs Python 3.11 or newer; none of these is: $(PYTHON)." >&2; \
	echo "Install one, or name it: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11" >&2; \
	exit 1

$(RUN_STAMP): $(LOCK) pyproject.toml | $(PY)
	@echo "installing what $(LOCK) lists (about 2 GB; minutes the first time)"
	$(PIP) install -r $(LOCK)
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The lists are complete, and dp-accounting asks for older attrs than Ray's packages get.
$(DEV_STAMP): $(DEV_LOCK) $(RUN_STAMP)
	$(PIP) install --no-deps -r $(DEV_LOCK)
	@touch $@
