# make install   sets up .venv with all extras that the tests need, 4.1 GB, and prints the next commands
# make demo   trains, evaluates and exports on synthetic images, without a download
# make train  the same on EuroSAT
# make test   runs all tests but the long ones
# make test-long   runs the long tests, which train several models each
# make deploy-check MODEL=saved_models/resnet50d   exports it in every format, and measures each on the test split
# make docs   builds the documentation in site/: runs the tutorials, about five minutes, and checks links and requests
# make lint   checks style and types
# make test-oldest   runs the tests with the lowest versions that setup.cfg allows, in .venv-oldest
# Each sets up .venv first; PYTHON chooses the interpreter (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin

MODEL ?= saved_models/resnet50d

.PHONY: install demo train test test-long test-oldest deploy-check docs lint

.venv/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  "Python 3.11 to 3.13 is needed, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	@touch $@

install: .venv/installed
	@echo "Installed in .venv ($$(du -shL .venv | cut -f1)). Go on with: source $(BIN)/activate, then"
	@echo "  python predict.py samples/patches         label images with the classifier of the package"
	@echo "  python map.py samples/scene.tif           map a scene with it"
	@echo "  python train.py --variant=d               train on EuroSAT; make demo trains for a few minutes without a download"

demo: .venv/installed
	$(BIN)/python train.py --depth=18 --variant=d --dataset=synthetic --image_size=64 --epochs=8 --weights=none \
	  --output_dir=saved_models/demo

train: .venv/installed
	$(BIN)/python train.py --variant=d

test: .venv/installed
	$(BIN)/python -m pytest -q -m 'not long'

test-long: .venv/installed
	$(BIN)/python -m pytest -q -m long

test-oldest: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv venv --quiet --clear .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest --resolution=lowest-direct --editable '.[test]'
	.venv-oldest/bin/python -m pytest -q --override-ini=filterwarnings=default

deploy-check: .venv/installed
	$(BIN)/python -m benchmarks.deployment --model=$(MODEL)

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	@touch $@

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/check_site.py site

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
