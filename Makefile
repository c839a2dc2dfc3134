# Two commands are all a fresh clone needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
METHODS := deterministic,mc_dropout,tta_photometric,deep_ensemble

.PHONY: help install demo test lint site speed clean

help:
	@echo "make demo   install into $(VENV), run four methods on the built-in data, write the page"
	@echo "make test   install, check style and types, run the tests"
	@echo "make site   write leaderboard/site again, from the published entries"
	@echo "make speed  measure against the peers (installs them apart; takes long)"
	@echo "make clean  remove $(VENV) and what the demo wrote"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): some gigabytes, which takes minutes"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -e '.[dev]' -c constraints.txt; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt; \
	fi
	@touch $@

demo: install
	$(BIN)/rdbench run --method $(METHODS) --dataset toy --category twill --category flange --image-size 128 \
		--epochs 5 --shift lighting:3 -o deep_ensemble.members=3 -o mc_dropout.samples=10 --out $(DEMO)/runs
	$(BIN)/rdbench leaderboard --runs $(DEMO)/runs --out $(DEMO)/site
	@echo "Open $(CURDIR)/$(DEMO)/site/index.html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=25

site: install
	rm -rf leaderboard/site
	cd leaderboard && ../$(BIN)/rdbench leaderboard --results results --out site

speed: install
	$(BIN)/python tests/speed/metrics.py
	$(BIN)/python tests/speed/evaluate.py
	$(BIN)/python tests/speed/leaderboard.py
	$(BIN)/python tests/speed/engines.py --engine local --apart
	$(BIN)/python tests/speed/engines.py --engine ray

clean:
	rm -rf $(VENV) $(DEMO)
