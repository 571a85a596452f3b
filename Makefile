# make demo   set up, write a synthetic archive, score it, show the result
# make test   set up, run every check and test
# make soak   set up, feed hostile files to every decoder, SECONDS each, JOBS at once; needs clang
# All build their own .venv from the versions in constraints.txt.

PYTHON ?= python3
SECONDS := 600
JOBS := 2
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(shell find ecgbatch engines kernels -type f -not -name '*.pyc')
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test soak clean

demo: $(VENV)/demo.stamp
	rm -rf demo
	$(BIN)/ecgbatch synth demo/archive --n 500 --seed 1 --format all --packed 0.12 --damaged 0.05
	$(BIN)/ecgbatch score demo/archive --out demo/run || test $$? -eq 3  # 3: finished, with rejects
	$(BIN)/ecgbatch inspect demo/run

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

soak: $(VENV)/soak.stamp
	$(BIN)/python fuzz/soak.py --seconds $(SECONDS) --jobs $(JOBS)

$(VENV)/demo.stamp: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/test.stamp: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev]'
	touch $@

$(VENV)/soak.stamp: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev,soak]'
	touch $@

clean:
	rm -rf $(VENV) build demo
