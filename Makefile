PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup quickstart notebooks check docs test test-oldest test-oldest-short test-matrix bench cards clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first and pinned, so that nothing after it can bring another build of it.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install -q "$$(grep '^torch==' $(2))"
	$(1)/bin/python -m pip install -q -e ".[dev]" -c $(2)
	touch $@
endef

.venv/.installed: pyproject.toml constraints.txt
	$(call install,.venv,constraints.txt)

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(call install,.venv-oldest,constraints-oldest.txt)

setup: .venv/.installed  ## Create .venv with the package, its dev tools and the tested versions

quickstart: setup  ## Run the main job on a small built-in world; results in outputs/quickstart/
	.venv/bin/python recipes/quickstart/run.py

notebooks: setup  ## Make the .ipynb in recipes/notebooks/ from the .py beside them
	.venv/bin/jupytext -q --to ipynb --update recipes/notebooks/*.py

check: setup  ## Lint, check the formatting and the types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

docs: setup  ## Build the documentation into build/site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

# As many processes as there are cores, up to 8; JOBS=1 for one. Each takes whole files, or of the matrix single tests.
# In their own order the last files are short; by default those with the fewest tests come last, which take long.
PARALLEL := -n $(or $(JOBS),auto) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: setup  ## Run the tests
	.venv/bin/python -m pytest $(PARALLEL)

test-oldest: .venv-oldest/.installed  ## Run the parity, trainer and publishing tests on the oldest supported versions
	.venv-oldest/bin/python -m pytest $(PARALLEL) tests/tokens tests/training tests/scoring tests/scores tests/cards tests/hub

test-oldest-short: .venv-oldest/.installed  ## Run the parity tests and one training run of them
	.venv-oldest/bin/python -m pytest $(PARALLEL) tests/tokens/test_parity.py tests/tokens/test_spans.py tests/training/test_run.py

test-matrix: setup  ## Run the long tests that `make test` leaves out: the trainer's matrix, several processes
	.venv/bin/python -m pytest $(PARALLEL) --dist worksteal -m slow

bench: setup  ## Run every script in benchmarks/
	for script in benchmarks/*.py; do echo "== $$script"; .venv/bin/python $$script || exit 1; done

cards: setup  ## Render the cards in cards/ anew from their facts
	.venv/bin/python cards/render.py

clean:  ## Remove caches and build folders (not the environments, not outputs/)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find hf_datasel tests recipes benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
