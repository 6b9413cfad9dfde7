# Two commands: `make demo` and `make test`. Each makes its own environment first; Python 3.11+ and make are enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/demo
	$(BIN)/nestling demo

test: .venv/dev check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

.venv/demo .venv/dev: .venv/%: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(if $(filter dev,$*),demo$(comma)onnx$(comma)recorded$(comma)dev,demo)]"
	touch $@

comma := ,

clean:
	rm -rf .venv build dist *.egg-info
