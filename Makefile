# `make demo` and `make test` work on a fresh checkout: they make `.venv` from the pinned requirements first.
# The first of these that runs and is of a version that the pins are made for.
PYTHON ?= $(shell for python in python3.12 python3.11 python3 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
UV := $(shell command -v uv || echo $(BIN)/uv)
EXTRAS := --extra cpu --extra paddle --extra flower --extra s3 --extra dev

# Where it is set, each of the many processes that tests start compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test chaos soak lint types bench bench-gateway parity lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

.venv/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --compile-bytecode --no-deps --require-hashes -r requirements.lock
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# PaddleOCR's own client, with all that it brings: its OpenCV would overwrite the files of ours.
.venv-paddleocr/installed: tests/contracts/paddleocr.lock .venv/installed
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-paddleocr
	VIRTUAL_ENV=.venv-paddleocr $(UV) pip install --quiet --compile-bytecode --no-deps --require-hashes -r tests/contracts/paddleocr.lock
	@touch $@

demo: .venv/installed ## Read the sample documents with a pool of its own
	$(BIN)/ocrpool read --embedded tests/samples/*.png tests/samples/*.jpg tests/samples/*.tiff tests/samples/*.pdf

test: lint types .venv-paddleocr/installed ## Lint, check types, run the tests
	$(BIN)/pytest

chaos: .venv/installed ## Every fault at length, with CHAOS_SEED=... or a seed that is printed; CHAOS_REPORT=FILE keeps the counts
	CHAOS=full $(BIN)/pytest -m "not soak" --numprocesses 5 --dist worksteal tests/chaos

soak: .venv/installed ## Half an hour of mixed traffic and faults, or SOAK_S=... seconds: nothing is lost, nothing grows
	$(BIN)/pytest -m soak -s tests/chaos

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

bench: .venv/installed ## Measure the pool, its stages and its peers on this machine; OPTIONS="--quick" for less
	$(BIN)/ocrpool bench $(OPTIONS)

bench-gateway: .venv/installed ## What one gateway process holds, with an engine that reads nothing; OPTIONS="--help" for more
	$(BIN)/python -m tests.benchmarks.gateway $(OPTIONS)

# x2paddle needs an older onnx than the project.
.venv-parity/installed: .venv/installed
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-parity
	VIRTUAL_ENV=.venv-parity $(UV) pip install --quiet x2paddle==1.6.0 "onnx<1.18" paddlepaddle==3.2.2 \
		requests setuptools six sympy
	@touch $@

parity: .venv-parity/installed ## Compare the runtimes on the same weights, converted with x2paddle
	$(BIN)/pytest -s tests/contracts/test_parity.py

lock: ## Pin every dependency anew
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 pyproject.toml $(EXTRAS) \
		--no-emit-package ocrpool --custom-compile-command "make lock" --output-file requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.12 pyproject.toml --constraints requirements.lock \
		--extra cpu --extra flower --extra s3 \
		--no-emit-package ocrpool --custom-compile-command "make lock" --output-file deploy/requirements-cpu.lock
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.12 pyproject.toml --constraints requirements.lock \
		--extra gpu --extra paddle --extra gateway --extra flower --extra s3 --excludes deploy/gpu-excludes.txt \
		--no-emit-package ocrpool --no-emit-package paddlepaddle \
		--custom-compile-command "make lock" --output-file deploy/requirements-gpu.lock
	echo "paddleocr==3.7.0" | $(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 - \
		--custom-compile-command "make lock" --output-file tests/contracts/paddleocr.lock

clean: ## Remove what the targets above made
	rm -rf .venv .venv-parity .venv-paddleocr .mypy_cache .ruff_cache .pytest_cache .hypothesis bench-results dist
