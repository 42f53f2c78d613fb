# The one entry: `make up` sets up and runs everything, `make test` sets up and tests everything.
# PYTHON=... chooses the interpreter (3.11 to 3.13); PORT=... and DATA=... go to `trellis up`.

BIN := .venv/bin
# Processes start by the dozen: byte code is kept, whatever the machine's habit.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: up test test-fast lint fmt types bench lock clean
.DEFAULT_GOAL := up

up:
	@PYTHON='$(PYTHON)' .ci/setup run && exec $(BIN)/trellis up $(if $(PORT),--port '$(PORT)') $(if $(DATA),--data-dir '$(DATA)')

test:
	@PYTHON='$(PYTHON)' .ci/setup test && exec $(BIN)/python -m pytest $(ARGS)

test-fast:
	@PYTHON='$(PYTHON)' .ci/setup test && exec $(BIN)/python -m pytest tests/unit $(ARGS)

lint:
	@PYTHON='$(PYTHON)' .ci/setup test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

fmt:
	@PYTHON='$(PYTHON)' .ci/setup test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types:
	@PYTHON='$(PYTHON)' .ci/setup test
	$(BIN)/mypy

bench:
	@PYTHON='$(PYTHON)' .ci/setup test && exec $(BIN)/python -m tests.bench $(ARGS)

# After a change of dependencies in setup.cfg; UPGRADE=1 also takes newer versions of the others.
lock:
	@PYTHON='$(PYTHON)' .ci/setup venv
	@.ci/lock $(if $(UPGRADE),--upgrade)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
