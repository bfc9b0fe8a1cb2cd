"""Data of retrainings on a DVC remote, and inputs that `dvc import-url` brought: in a small project with real DVC."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stereotalker.errors import Unavailable
from stereotalker.tasks import working_copy
from stereotalker.tasks.working_copy import WorkingCopy

pytestmark = pytest.mark.integration

# A stage that notes each of its runs outside the project.
STAGE = """
import sys
from pathlib import Path
Path("model").write_text(Path("data/inputs/speech/said/a.txt").read_text())
open(sys.argv[1], "a").write("ran ")
"""


def run(folder: Path, *command: str) -> str:
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def commit(folder: Path) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "Change")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A project with an input that lies elsewhere, and a stage that reads it."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "data" / "inputs" / "speech").mkdir(parents=True), elsewhere.mkdir()
    (elsewhere / "a.txt").write_text("hello")
    (project / "stage.py").write_text(STAGE)
    stage = {
        "cmd": f"{sys.executable} stage.py {tmp_path / 'runs'}",
        "deps": ["stage.py", "data/inputs/speech"],
        "outs": ["model"],
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    run(project, "git", "init", "-q")
    dvc(project, "init", "-q")
    dvc(project, "import-url", "-q", str(elsewhere), "data/inputs/speech/said")
    commit(project)
    monkeypatch.setattr(working_copy, "ROOT", project)
    return project


def train(home, url: str) -> WorkingCopy:
    copy = WorkingCopy.open(home)
    copy.reproduce(("train",), None, lambda: False, url)
    return copy


def test_data_pushed_to_s3_by_one_machine_are_taken_by_another(s3, checkout, home, tmp_path):
    first = train(home, "s3://studio/data")
    assert (first.folder / "model").read_text() == "hello" and (tmp_path / "runs").read_text() == "ran "
    lock = (first.folder / "dvc.lock").read_bytes()

    # Another machine has the commit, but neither the input's source nor a cache.
    (checkout / "dvc.lock").write_bytes(lock)
    commit(checkout)
    other = tmp_path / "other"
    run(tmp_path, "git", "clone", "-q", str(checkout), str(other))
    dvc(other, "remote", "add", "--local", "--default", "studio", "s3://studio/data")
    dvc(other, "pull", "-q")
    assert (other / "model").read_text() == "hello" and (other / "data/inputs/speech/said/a.txt").is_file()
    assert "Running stage" not in dvc(other, "repro")


def test_a_remote_that_is_away_ends_the_retraining_with_what_to_do(s3, checkout, home, tmp_path):
    with pytest.raises(Unavailable, match="push"):
        train(home, "s3://no-such-bucket/data")
    train(home, "s3://studio/later")  # what was trained is not trained again
    assert (tmp_path / "runs").read_text() == "ran "


def test_a_changed_input_repeats_the_stage_and_a_lost_one_is_named(checkout, home, tmp_path):
    train(home, str(tmp_path / "remote"))
    (tmp_path / "elsewhere" / "a.txt").write_text("goodbye")
    dvc(checkout, "update", "-q", "data/inputs/speech/said.dvc")
    commit(checkout)
    assert (train(home, str(tmp_path / "remote")).folder / "model").read_text() == "goodbye"
    assert (tmp_path / "runs").read_text() == "ran ran "
    lost = yaml.safe_load((checkout / "data/inputs/speech/said.dvc").read_text())
    lost["outs"][0]["md5"] = "0" * 32 + ".dir"
    (checkout / "data/inputs/speech/said.dvc").write_text(yaml.safe_dump(lost))
    commit(checkout)
    with pytest.raises(Unavailable, match="pull"):
        train(home, str(tmp_path / "remote"))
