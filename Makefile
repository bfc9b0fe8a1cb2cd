# Everything a newcomer needs: `make demo`, `make test`. Set-up is part of both.
PYTHON ?= python3
# The torch to install first. The default has CPU-only wheels on some indexes; TORCH=torch takes the newest one allowed.
TORCH ?= torch==2.13.0
# How many processes share the tests.
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: setup demo check test test-all lint docs dvc-file lock bench clean

setup: .venv/.ready

# torch apart, because its build differs by index; the rest in the versions and with the hashes that were tested. The
# lock holds opencv-python-headless in the place of the OpenCV that mediapipe asks for, which needs libGL.
.venv/.ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(PIP) "$(TORCH)"
	$(PIP) --require-hashes --no-deps -r requirements.lock
	$(PIP) --no-deps -e .
	touch $@

demo: setup
	$(BIN)/stereotalker produce examples/batch.yaml --out out/demo
	@if [ -d ../shared/data/speech ]; then $(BIN)/stereotalker produce examples/real.yaml --out out/demo-real; \
	else echo "real recordings are not at ../shared/data/speech: examples/real.yaml is left out"; fi

# The fast tests: units, within two minutes.
check: setup lint
	$(PYTEST) -m "not integration and not slow"

# What a commit must pass; 22 minutes on two cores, of which the aim is ten.
test: setup lint
	$(PYTEST) -m "not slow"

# Everything, with what takes minutes each.
test-all: setup lint
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

docs: setup
	$(BIN)/mkdocs build --strict

# Write the code that each stage depends on into dvc.yaml, after a change of imports.
dvc-file: setup
	$(BIN)/python -m stereotalker.tasks.dvc_file

# Resolve the tested set of packages anew, within the ranges of pyproject.toml.
lock: setup
	$(PIP) pip-tools
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--unsafe-package torch --unsafe-package opencv-contrib-python \
		--extra people --extra photo --extra voices-more --extra words-all --extra docs --extra dev -o requirements.lock pyproject.toml
	sed -i -e '/^# WARNING: The following packages were not pinned/,$$d' \
		-e '1i # The tested set of packages, for Python 3.11 on Linux. `make lock` writes this file; `make setup` installs it.' \
		-e '1i # Left out: torch, whose build differs by index, and opencv-contrib-python, for which opencv-python-headless stands in.\n' \
		requirements.lock

bench: setup
	$(BIN)/python -m benchmarks.clip
	$(BIN)/python -m benchmarks.releases
	$(BIN)/python -m benchmarks.render
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.motion
	$(BIN)/python -m benchmarks.people
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.chaos
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.scale

clean:
	rm -rf .venv out runs data build site
