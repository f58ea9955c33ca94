# Everything happens in .venv; `make quickstart` and `make test` set it up themselves.
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup quickstart test check docs docs-links rooms backbones ui

setup: .venv/.installed ## virtual environment and installation; nothing to do when it is done

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed; set PYTHON=...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

quickstart: setup ## the main job on generated images: ingest, train, evaluate, register, serve, report
	$(BIN)/bayes-pfl quickstart

check: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

test: setup check ## everything that CI runs
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

SITE := $(BIN)/sphinx-build -W --keep-going -n -q -c docs

docs: setup ## docs/_build/index.html: the site of docs/; a warning is an error
	$(SITE) . docs/_build
	@echo docs/_build/index.html

docs-links: setup ## visits every link of the site that leads elsewhere
	$(SITE) -b linkcheck . docs/_build/linkcheck

backbones: setup ## docs/backbones.md: which of open_clip's architectures can be the backbone (3 minutes)
	$(BIN)/python docs/list_backbones.py

rooms: setup ## docs/images/rooms.svg: the picture of who imports whom in ARCHITECTURE.md
	$(BIN)/python docs/draw_rooms.py

STORE := "from pipelines.platform import mlflow_store, settings; print(mlflow_store.tracking_uri(settings.TrackingSettings()))"

ui: setup ## MLflow's pages of runs and models, http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri "$$($(BIN)/python -c $(STORE))" --host 127.0.0.1 --workers 1
