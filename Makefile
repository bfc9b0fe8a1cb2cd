# Everything a newcomer needs: `make demo`, `make test`. Set-up is part of both.
PYTHON ?= python3
# The torch to install first. The default has CPU-only wheels on some indexes; TORCH=torch takes the newest one allowed.
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: setup demo test lint bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install -q --disable-pip-version-check -e ".[people,photo,dev]"
	@# mediapipe asks for the OpenCV that needs libGL; the headless one, of the same release, takes its place
	$(BIN)/pip install -q --disable-pip-version-check --force-reinstall --no-deps "opencv-python-headless>=4.10,<5"
	touch $@

demo: setup
	$(BIN)/stereotalker produce examples/batch.yaml --out out/demo
	@if [ -d ../shared/data/speech ]; then $(BIN)/stereotalker produce examples/real.yaml --out out/demo-real; \
	else echo "real recordings are not at ../shared/data/speech: examples/real.yaml is left out"; fi

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks.clip
	$(BIN)/python -m benchmarks.render
	$(BIN)/python -m benchmarks.motion
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.chaos

clean:
	rm -rf .venv out runs data
