# Two commands suffice: `make demo` and `make test`. Both create .venv from pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
EXAMPLES := $(VENV)/.examples
DOCS := $(VENV)/.docs
PYTEST := pytest --numprocesses 2 --no-loadscope-reorder --durations 15
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help demo test test-rest test-slurm test-all check lint types bench docs install clean prune

help:
	@echo "make demo    train LeNet and make videos of its loss surface (minutes)"
	@echo "make test    linters, and tests of everything (12 minutes)"
	@echo "make test-rest    types, examples and costly repetitions, which make test leaves out"
	@echo "make test-slurm   the workflow on a real, private one-node Slurm (needs root; installs Slurm on Debian)"
	@echo "make test-all     these three, one after the other"
	@echo "make bench   speed against peers, into results/bench.json"
	@echo "make docs    regenerate config/README.md, config/STORES.md and the captions; build the pages into build/docs"
	@echo "make prune   remove stores that were set aside or never completed; only while no job runs"
	@echo "make clean   remove all results, hidden stores included"

demo: $(STAMP)
	snakemake --profile workflow/profiles/local

test: lint
	$(PYTEST) -m "not full"

test-rest: $(EXAMPLES) types
	$(PYTEST) -m full

test-all:
	$(MAKE) test
	$(MAKE) test-rest
	$(MAKE) test-slurm

test-slurm: $(STAMP)
	python tests/slurm/cluster.py
	pytest tests/slurm -v --durations=0

check: lint types

types: $(STAMP)
	mypy

lint: $(STAMP)
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	SLURM_CONF=/dev/null snakemake --lint # else its plugin waits for a Slurm that is installed and does not run

bench: $(STAMP)
	python tests/bench/bench.py

docs: $(DOCS)
	python scripts/config_docs.py > config/README.md
	python -m lossatlas.drivers.store_docs > config/STORES.md
	python -m lossatlas.render.registry workflow/report
	sphinx-build --quiet --fail-on-warning --keep-going --doctree-dir build/doctrees docs build/docs
	@echo "build/docs/index.html"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "LossAtlas needs Python >= 3.11; name one with: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[workflow,mpi,tensorflow,test]'
	touch $@

# Other people's trainers, whose callbacks are tested and which examples use; the project itself does without.
$(EXAMPLES): $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[examples]'
	touch $@

$(DOCS): $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

prune:
	find results -path '*/.stores/*' \( -name '*.aside-*' -o -name '.*.new-*' \) -prune -exec rm -rf {} +

clean:
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf .snakemake
