# The two commands of the README, and what CI runs besides. Each target makes the virtual
# environment when there is none and installs again only when the project's requirements changed.
#
#   make demo [DEMO_FLAGS=--quick]      make test [PYTEST_FLAGS='-m pure']
#   make soak [SOAK_FLAGS='plans --n 1000']     make docs
#   make coverage [PYTEST_FLAGS='-n 2']         make mutants [MUTANTS_FLAGS='npas/budget.py']
#   PYTHON=python3.12 chooses the interpreter, VENV=path the place of the environment.

PYTHON ?= python3
VENV ?= .venv
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
SOAK_FLAGS ?=
MUTANTS_FLAGS ?=
BIN := $(VENV)/bin
OLD := "npas needs Python 3.11 or later, such as PYTHON=python3.12"

.PHONY: demo test coverage lint docs soak mutants clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/.installed-plot
	$(BIN)/python -m examples.digits $(DEMO_FLAGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# The tests again, and which branches of npas/ none of them takes.
coverage: $(VENV)/.installed-dev
	rm -rf build/coverage
	mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest $(PYTEST_FLAGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, in build/site; any warning is an error. It needs no network to be looked at.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Hours; what was done stays in build/soak.jsonl, and the same command goes on.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.soak $(SOAK_FLAGS)

# Changes of the planner that no test notices. What was done stays in build/mutants.jsonl.
mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutants $(MUTANTS_FLAGS)

# One stamp a set of extras, so that the demo waits for no linter. pip is the last thing that
# `venv` puts into an environment: without it the environment is absent or was interrupted.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and $(OLD))'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build demo dist .hypothesis .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
