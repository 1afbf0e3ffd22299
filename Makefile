# Every target installs what it needs first; Python, git and make are all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH ?= runs/bench

.PHONY: install demo test hard faults coverage lint bench bench-results docs release-check constraints clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable '.[all,dev]'
	touch $(STAMP)

demo: install
	$(BIN)/aaconv demo

# Two processes of one thread each: most of the time is starting programs, and threads that wait for each other spin.
IN_TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_TWO)

# What takes minutes: readers fed with damaged files, programs killed and starved.
hard: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m hard $(IN_TWO)

# Faults planted one at a time in a copy, to see whether tests notice; half an hour and more.
faults: install
	mkdir -p runs
	OMP_NUM_THREADS=1 $(BIN)/python scripts/plant_faults.py --json runs/faults.json

# Lines that `make test` reaches, in started programs too.
coverage: install
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest $(IN_TWO)
	$(BIN)/coverage combine
	$(BIN)/coverage report

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/attention.py --memory --out $(BENCH)
	$(BIN)/python benchmarks/layer.py --out $(BENCH)
	$(BIN)/python benchmarks/growth.py --out $(BENCH)
	$(BIN)/python benchmarks/networks.py --memory --out $(BENCH)
	$(BIN)/python benchmarks/pipeline.py --out $(BENCH)
	$(BIN)/python benchmarks/engine.py --out $(BENCH)
	$(BIN)/python benchmarks/engine.py --startup --out $(BENCH)
	$(BIN)/python benchmarks/exploring.py --out $(BENCH)

# A set of results that belongs to this commit and machine, to be committed.
bench-results: install
	$(MAKE) bench BENCH=$$($(BIN)/python benchmarks/measuring.py)

docs: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[docs]'
	$(BIN)/sphinx-build --fail-on-warning docs docs/_build

# Wheel and sdist, installed where nothing else is; DIST=FOLDER keeps them.
release-check: install
	$(BIN)/python scripts/check_release.py $(if $(DIST),--keep $(DIST))

constraints:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate --no-header \
		--no-emit-index-url --upgrade --output-file constraints.txt pyproject.toml
	sed -i '1i # Versions that are tested together. Made by `make constraints`; no download addresses.' constraints.txt

clean:
	rm -rf $(VENV) docs/_build docs/jupyter_execute
