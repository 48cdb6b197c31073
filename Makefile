# Every target installs what it needs first (scripts/install-debian.sh; a moment when nothing is missing).
#
#   make demo         a small internet on this machine, everything running in it; stays up
#   make demo-once    the same, fetched once through every gateway, then taken down; exit 0 only if every fetch worked
#   make demo-down    takes the demo down
#   make check        format, lint, types, tests without root; two minutes
#   make check-real   make check, then everything on real programs
#   make test         every test; ARGS="tests/lab/test_lab.py -x" goes to pytest instead of the whole
#   make bench        the benchmarks; ONLY=name for one
#   make lock         write requirements/dev.txt anew
#   make clean        remove what was built and installed under this folder

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help root install install-tests python demo demo-once demo-down test check check-real bench lock clean

export MAKECMDGOALS
INSTALL := scripts/install-debian.sh
BIN := .venv/bin
CODE := libs services tests
# Without root and without servers; make check-real runs the others.
QUICK := $(wildcard tests/unit tests/flow tests/architecture)

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile

root:
	@test "$$(id -u)" = 0 || { echo "kakuremichi: make $(MAKECMDGOALS) builds network namespaces and needs root." \
	  "Go on with 'sudo make $(MAKECMDGOALS)', or as root in a container started with --privileged." \
	  "'make check' needs no root." >&2; exit 1; }

install:
	@$(INSTALL) demo
install-tests:
	@$(INSTALL) tests
python:
	@$(INSTALL) python

demo: root install
	@$(BIN)/kakuremichi demo up
demo-once: root install
	@$(BIN)/kakuremichi demo once --json
demo-down: root install
	@$(BIN)/kakuremichi demo down

test: root install-tests
	$(BIN)/pytest $(or $(ARGS),tests --ignore=tests/bench)

check: python
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/pytest -q -m "not root" $(QUICK)

check-real: root check install-tests
	$(BIN)/pytest tests --ignore=tests/bench $(addprefix --ignore=,$(QUICK))

bench: root install-tests
	@PYTHONPATH=tests $(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

lock:
	scripts/lock.sh

clean:
	rm -rf .venv .local .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
