# Two commands do everything on a fresh machine with Python 3.11 to 3.13, make and git: `make demo` and `make test`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
export OPENBLAS_NUM_THREADS ?= 1
export PYTHONDONTWRITEBYTECODE :=  # containers set it; the tests begin a hundred Pythons

.PHONY: help setup system demo simulate simulate-openai simulate-people test quick cluster interleavings attack contract api lint figures bench bench-peers bench-vad fuzz soak pins refresh audit wheel release clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Make .venv with the `offhook` command, at the versions of constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt .ci/link
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or say make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up $(VENV) with the packages of constraints.txt: once, a minute or a few"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes --requirement constraints.txt
	@$(PIP) --no-deps --no-build-isolation --no-index --editable .
	@sh .ci/link
	@touch $@

system: setup ## Install what some tests need from the system, where that may be done
	@sh tests/system.sh $(BIN)/python

demo: setup ## Place a simulated phone call through the real gateway: no key, no account
	@$(BIN)/offhook demo

simulate: setup ## Rehearse every bundled scenario: verdicts, then the figures over all calls
	@$(BIN)/offhook simulate --parallel 8 --junit out/simulate/junit.xml

simulate-openai: setup ## The same with the other provider, on the quick clock
	@$(BIN)/offhook simulate --provider openai --speed 10 --out out/simulate-openai

simulate-people: setup system ## The same with people's recorded voices for caller and agent, on the quick clock
	@$(BIN)/offhook simulate --voice people --speed 10 --parallel 4 --out out/simulate-people

test: setup system ## Run every test; repeat alone, once, those that failed
	@sh .ci/tests $(BIN)/python

quick: setup system ## Run the tests that wait for no other process
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m 'not (wall_clock or clock_speed)'

cluster: setup system ## Fail processes, Redis and balancer of a fleet under calls: ten faults, each checked
	@$(BIN)/offhook faults --cluster --quick --calls 4 --seed $(or $(SEED),1)

interleavings: setup ## Thousands of interleavings of ring, claim, write, tools and end over a store that fails; EXAMPLES (5000)
	@$(BIN)/python -m tests.bench.bench_interleavings --examples $(or $(EXAMPLES),5000)

attack: setup ## Attack a served gateway for minutes; as root from public addresses, too. Prints what was answered
	@$(BIN)/python -m tests.web.attacks

contract: setup ## Hold the contract with google-genai in an environment with its newest 3.x
	@sh tests/contract.sh $(BIN)/python

api: setup ## Schemathesis against the served API, by the OpenAPI document that it serves
	@sh tests/openapi.sh $(BIN)/python

lint: setup ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

figures: setup ## Draw the pictures of the documentation
	@for f in tests/figures_*.py; do $(BIN)/python -m $$(echo $${f%.py} | tr / .) || exit 1; done

bench: setup ## Measure: conversion, link, metrics, calls; prints ratios taken in one run
	@failed=; for f in tests/bench/bench_*.py; do \
	  case $$f in *bench_vad.py|*bench_peers.py|*bench_interleavings.py|*bench_survival.py) continue;; esac; \
	  echo "== $$f"; $(BIN)/python -m $$(echo $${f%.py} | tr / .) || failed="$$failed $$f"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

bench-peers: setup ## Measure this gateway beside a bare relay, google-genai's own calls and Pipecat, on the same calls
	@$(PYTHON) -m venv .venv-peers && .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/peers.txt
	@$(BIN)/python -m tests.bench.bench_peers --peers .venv-peers/bin/python

bench-vad: setup system ## The table of speech detection: onset, misses, false starts
	@$(BIN)/python -m tests.bench.bench_vad

fuzz: setup ## Fuzz each parser, the media endpoint and the model link, SECONDS (600) each; TARGETS chooses
	@$(PIP) --require-hashes --requirement .ci/fuzz.txt || echo "atheris cannot be had here: inputs are chosen by chance"
	@$(BIN)/python -m tests.bench.fuzz --seconds $(or $(SECONDS),600) $(TARGETS)

soak: setup ## Keep 20 calls with faults in progress for MINUTES (60): nothing may be left of them
	@$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),60)

pins: ## Write versions and hashes of what pyproject.toml asks for; versions stay where they can
	@.ci/pins $(PYTHON)

refresh: ## The same with the newest versions, and the images' digests
	@.ci/pins $(PYTHON) --upgrade

audit: ## Fail on pinned versions with known vulnerabilities, where a database can be reached
	@.ci/audit $(PYTHON)

wheel: setup ## Build the wheel into dist/
	@$(BIN)/python -m hatchling build --target wheel

release: setup ## Build wheel, sdist, SBOM and SHA256SUMS into dist/, the same for the same commit
	@.ci/release $(PYTHON) $(BIN)/python

clean: ## Remove what the other targets made
	rm -rf .venv .venv-* out dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
