"""The package as users install it: a wheel, in an environment of its own, called from a folder of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from batch_helpers import SMALL

from stereotalker.params import ROOT

pytestmark = pytest.mark.integration
SOURCES = ("stereotalker", "flows", "tasks", "pyproject.toml", "README.md", "LICENSE", "params.yaml")


def run(*command, env=None, **options):
    own = {name: value for name, value in (env or os.environ).items() if name != "PYTHONPATH"}
    answer = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=own, **options)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment that holds the wheel, and the dependencies of this one without its editable install."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, target = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    python = folder / "env" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A path in a .pth file is searched, but the .pth files in it are not read: the editable install stays out.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    [wheel] = folder.glob("*.whl")
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    return folder / "env" / "bin"


def test_a_wheel_makes_a_clip_from_any_folder(environment, tmp_path):
    own = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data")}
    own.pop("STEREOTALKER_HOME", None)
    manifest = {"defaults": SMALL, "clips": [{"id": "a", "avatar": "ava", "script": "Yes."}]}
    (tmp_path / "batch.yaml").write_text(yaml.safe_dump(manifest))
    command = (environment / "stereotalker", "produce", "batch.yaml", "--executor", "inline")
    assert "1 clips" in run(*command, cwd=tmp_path, env=own)
    assert (tmp_path / "out" / "clips" / "a.mp4").is_file()
    assert (tmp_path / "data" / "stereotalker" / "store").is_dir() and not (tmp_path / "runs").exists()
    place = run(environment / "python", "-c", "import stereotalker; print(stereotalker.__file__)", cwd=tmp_path)
    assert str(environment.parent) in place


def test_a_wheel_installs_no_names_of_others(environment, tmp_path):
    for name in ("flows", "tasks", "tests", "benchmarks"):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
        run(environment / "python", "-c", code, cwd=tmp_path)


def test_importing_the_package_sets_no_environment_of_others(environment, tmp_path):
    code = "import os; before = dict(os.environ); import stereotalker, stereotalker.params; assert os.environ == before"
    run(environment / "python", "-c", code, cwd=tmp_path)


def test_a_users_mistake_is_one_line_and_status_2(environment, tmp_path):
    """Of the real process, whose other mistakes the tests of the command line make inside their own process."""
    command = [environment / "stereotalker", "produce", "nowhere.yaml", "--dry-run"]
    own = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    answer = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stderr.strip().splitlines() == [answer.stderr.strip()]
    assert "manifest not found" in answer.stderr
