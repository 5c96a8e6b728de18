# `make demo` and `make test` do all their set-up: a .venv with the versions of constraints.txt,
# and Chromium and Firefox for the tests that open the real viewers.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# pip takes a CPU build of torch where it finds one for this exact version. What is imported is
# compiled then: of 30,000 files most never are, and pip compiles one after the other.
INSTALL := $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt

# Tests wait for other programs (browsers, servers, workers) for a quarter of their time, so that two
# cores have room for a third worker.
WORKERS ?= 3

# Each worker begins with a part of the files, so that what a file's tests share is made once, and
# takes over tests of the others when it has none left.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# pytest compiles the assertions of the tests: once, not at every run.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-fast check lint types types-win32 types-darwin format docs bench \
  browser page clean

demo: $(VENV)/.installed
	$(BIN)/python examples/lightning_cnn.py demo

# All kinds of tests, over a sample of the models; ARGS chooses and adds: make test ARGS="-k svg".
test: $(VENV)/.installed-test
	$(PYTEST) $(ARGS)

# All tests over all models, and what takes long: what continuous integration runs.
test-all: $(VENV)/.installed-test browser
	$(PYTEST) --all $(ARGS)

# What a change is tried with: no zoo, no browser, no server, no process, no other library.
test-fast: $(VENV)/.installed-test
	$(PYTEST) -m "not (zoo or browser or server or process or library)" $(ARGS)

# In parts, each a minute on a core: make --jobs=2 check.
check: lint types types-win32 types-darwin

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

types-win32 types-darwin: types-%: $(VENV)/.installed-test
	$(BIN)/mypy --platform $* --cache-dir .mypy_cache/$*

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site in site/: no warning, and no link that leads nowhere.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python docs/check_links.py site

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/overhead.py

# The interactive page's script from its modules; needs Node.js 20. Its build is committed.
page:
	cd modelviz_callbacks/writers/page && npm ci && npm run check && npm run build

browser:
	@for program in chromium firefox-esr; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	[ -z "$$missing" ] || { \
	  echo "Installing for the tests that open the viewers:$$missing"; \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get update -qq && $$as_root apt-get install -y -qq $$missing >/dev/null; }

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) --editable '.[all]' scikit-learn
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --group test --group check
	$(INSTALL) --no-deps fastai mmengine
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-test
	$(INSTALL) --group docs
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(INSTALL) --group bench
	touch $@

clean:
	rm -rf $(VENV) demo site
