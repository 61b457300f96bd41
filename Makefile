# make env    the environment, in .venv (every other target calls it)
# make book   execute the notebooks and build the book: _build/html/index.html
# make test   style, types, unit tests, the notebooks' contract, and notebooks executed twice and compared
# make lock   write requirements.lock anew (needs uv); `make env LOCK=1` checks every package but PyTorch against it
# make newest  the unit tests with the newest versions of everything, in an environment of their own
# make empty   install the package from its wheel into an empty environment, and start every notebook there
# make archive  the executed book as one zip file with its checksum, for a release
# make links  ask every address outside the book whether it is still there (needs the network)
# make successor  the same pages with the successor of Jupyter Book 1, as far as it goes, and what is lost (needs npm)
# make editions  the notebooks for students (without solutions) and instructors (with marking hints), and for nbgrader
# make grader  let nbgrader, in an environment of its own, mark the autograded edition: solved, and empty
# make lesson LESSON=one-lecture  run what a schedule of the instructor's guide needs: notebooks, slides, student edition
# make lab    JupyterLab on the notebooks
# make clean  remove everything that was built (the environment stays; remove .venv to drop it too)

PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)

.DEFAULT_GOAL := help
_build/html/index.html:
	$(MAKE) book

.PHONY: help env lock newest empty book browser archive links successor editions grader lesson test lab clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

env: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:3]; sys.exit(None if (3, 11, 5) <= v < (3, 14) else f"Python 3.11.5 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}.{v[2]}; name another with: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(LOCK),$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r requirements.lock)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[book,test]"
	@touch $@

lock:
	$(PYTHON) tools/lock.py

# What tests/test_book.py says about pinned versions is not asked here.
newest:
	$(PYTHON) -m venv _build/newest
	_build/newest/bin/python -m pip install --disable-pip-version-check --upgrade -e ".[book,test]"
	_build/newest/bin/python -m pip list
	_build/newest/bin/python -m pytest -p no:nbval -n $(JOBS) --dist worksteal \
	    --deselect tests/test_book.py::test_constraints_cover_everything_that_is_installed

# No constraints: whoever installs the package has none. PIP_EXTRA_INDEX_URL may name an index with PyTorch for the CPU.
empty:
	rm -rf _build/empty
	$(PYTHON) -m venv _build/empty/env
	_build/empty/env/bin/python -m pip install --disable-pip-version-check .
	elsewhere=$$(mktemp -d) && cp -r notebooks tools/try_wheel.py $$elsewhere && \
	    cd $$elsewhere && $(CURDIR)/_build/empty/env/bin/python -I try_wheel.py notebooks

# The book is always built from nothing, because Sphinx repeats the warnings of a page only when it reads it again.
# Executed notebooks are kept under _build/cache for as long as nothing that they depend on has changed.
book: $(STAMP) browser
	$(BIN)/python tools/stage.py --to _build/stage $(if $(REPOSITORY),--repository $(REPOSITORY))
	rm -rf _build/html _build/.doctrees
	$(BIN)/jupyter-book build _build/stage --path-output . -W -n --keep-going
	$(BIN)/python tools/finish.py _build/html
	$(BIN)/python -m pytest -m book -rs -n $(JOBS) --dist worksteal tests/test_book.py tests/test_browser.py tests/test_wheel.py
	@echo "The book is at _build/html/index.html"

# The finished pages are read in a real browser. Debian's Chromium is installed where there is none and we may; without
# one the tests that need it skip, and say so.
browser:
	@for name in $(CHROMIUM) chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq -y --no-install-recommends install chromium >/dev/null \
	    || echo "There is no Chromium, and it could not be installed: the browser tests will skip"

archive: _build/html/index.html
	rm -f _build/leaky-scalars-*.zip*
	$(BIN)/python tools/archive.py _build

links: $(STAMP)
	test -d _build/stage || $(BIN)/python tools/stage.py --to _build/stage
	$(BIN)/jupyter-book build _build/stage --path-output . --builder linkcheck

# nbval executes the executed notebooks once more and compares what they print: with one thread, as they were executed,
# because the order of sums decides the last digits of what is exact (so do addresses of arrays, but for MKL_CBWR); so a
# few notebooks at a time, one on each core.
# The unit tests do without its plugin, which takes seconds to load in every process.
# Style and types (of the rooms that pyproject.toml lists) come first: they take seconds.
test: $(STAMP)
	$(BIN)/ruff check glutils tests tools benchmarks
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -p no:nbval -n $(JOBS) --dist worksteal
	$(BIN)/python tools/stage.py --profile fast --to _build/fast
	ls _build/fast/notebooks/*.ipynb | TQDM_DISABLE=1 OMP_NUM_THREADS=1 MKL_CBWR=AUTO GLUTILS_RECORDS=$(CURDIR)/_build/fast/records \
	    xargs -P $(JOBS) -n 3 $(BIN)/python -m pytest -o norecursedirs= -o filterwarnings=default -p no:cacheprovider \
	    --nbval --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 300

successor: $(STAMP)
	$(BIN)/python tools/successor.py

editions: $(STAMP)
	$(BIN)/python tools/editions.py --to _build/editions
	$(BIN)/python tools/autograded.py --to _build/editions/autograded

# The environment of the grader sees the book's packages too: it has to execute the notebooks.
grader: editions
	$(PYTHON) -m venv _build/grader
	_build/grader/bin/python -m pip install --disable-pip-version-check nbgrader==0.9.6
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > "$$(_build/grader/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_book.pth"
	_build/grader/bin/python tools/try_grader.py --course _build/editions/autograded $(if $(ONLY),--only $(ONLY))

lesson: $(STAMP)
	$(BIN)/python tools/lesson.py --lesson "$(LESSON)" --to _build/lessons

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf _build .pytest_cache .ruff_cache
	find glutils tests tools benchmarks -name __pycache__ -type d -exec rm -rf {} +
