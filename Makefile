# `make demo` and `make test` need python3.11 and make, nothing else.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEMO_DIR ?= demo
DOCS := .venv-docs
NOTEBOOKS := .venv-notebooks

# TensorFlow's C++ code prints notes on missing GPUs that look like errors.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo docs faults help test links lint lock install notebooks results

demo: install
	$(PYTHON) -m tff_fedsynth.experiments.demo --output_dir=$(DEMO_DIR)

test: install
	$(PYTHON) -m pytest -n 2 --dist loadfile

# Breaks runs in many ways, for half an hour; see tests/fault_injection.py.
faults: install
	$(PYTHON) -m pytest -m slow tests/experiments/running

# Writes what --help prints, and docs/flags.md.
help: install
	$(PYTHON) -m tff_fedsynth.experiments.help.pages

# Builds site/ out of docs/, results/ and the docstrings; a warning is an error.
docs: $(DOCS)/.installed
	PATH="$(DOCS)/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# Executes the notebooks in fresh kernels, and stores what they show.
notebooks: $(NOTEBOOKS)/.installed
	$(NOTEBOOKS)/bin/python docs/notebooks/execute.py

# Makes the tables and the index of results/ out of their rows.
results: install
	$(PYTHON) results/pages.py

# Asks each address that the texts name, over the network, whether it is there.
links: install
	$(PYTHON) docs/lint.py --links

lint: install
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) docs/lint.py

install: $(INSTALLED)

# Makes the environment $(1) of Python 3.11, with uv or else with pip, and sets
# $$install to what installs into it.
define create_environment
set -e; python=; for p in python3.11 python3 python; do \
  if $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
    2>/dev/null; then python=$$p; break; fi; done; \
if [ -z "$$python" ]; then \
  echo 'No Python 3.11 was found. TensorFlow Federated 0.87 needs it: install' \
    'python3.11, so that `python3.11 --version` works, and try again.' >&2; \
  exit 1; fi; \
if command -v uv >/dev/null; then \
  uv venv --quiet --clear --python $$python $(1); \
  install="uv pip install --quiet --python $(1)/bin/python"; \
else \
  $$python -m venv --clear $(1); \
  install="$(1)/bin/python -m pip install --quiet --disable-pip-version-check"; \
fi
endef

$(INSTALLED): requirements.txt pyproject.toml
	@$(call create_environment,$(VENV)); \
	echo 'Installing into $(VENV) (3 GB; 1 to 5 minutes)'; \
	$$install --no-deps --require-hashes -r requirements.txt; \
	$$install --no-deps --no-build-isolation -e .
	@touch $@

$(DOCS)/.installed: docs/requirements.txt
	@$(call create_environment,$(DOCS)); \
	$$install --no-deps --require-hashes -r docs/requirements.txt
	@touch $@

# Jupyter's packages, over those of $(VENV).
$(NOTEBOOKS)/.installed: docs/notebooks/requirements.txt $(INSTALLED)
	@$(call create_environment,$(NOTEBOOKS)); \
	$$install --no-deps --require-hashes -r docs/notebooks/requirements.txt; \
	echo "import site; site.addsitedir('$(CURDIR)/$(VENV)/lib/python3.11/site-packages')" \
	  > $(NOTEBOOKS)/lib/python3.11/site-packages/project.pth
	@touch $@

# Pins what pyproject.toml and the other requirements name, with hashes.
LOCK := uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command 'make lock'

lock:
	@command -v uv >/dev/null || { echo '`make lock` needs uv: pip install uv' >&2; exit 1; }
	$(LOCK) pyproject.toml --extra dev --output-file requirements.txt
	$(LOCK) docs/requirements.in --output-file docs/requirements.txt
	$(LOCK) docs/notebooks/requirements.in --constraint requirements.txt \
	  --output-file docs/notebooks/requirements.txt
