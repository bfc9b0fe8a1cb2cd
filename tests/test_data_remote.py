"""Data of retrainings on a DVC remote, and inputs that `dvc import-url` brought: in a small project with real DVC."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stereotalker.dataset.inputs import input_sources
from stereotalker.errors import Unavailable, UserError
from stereotalker.params import ROOT
from stereotalker.runtime.home import Home
from stereotalker.tasks import working_copy
from stereotalker.tasks.working_copy import WorkingCopy

pytestmark = pytest.mark.integration

SAID = "data/inputs/speech/said"
# A stage that notes each of its runs outside the project.
STAGE = """
import sys
from pathlib import Path
folder = Path("data/inputs/speech")
Path("model").write_text(" ".join(path.read_text() for path in sorted(folder.glob("*/*.txt"))))
open(sys.argv[1], "a").write("ran ")
"""


def run(folder: Path, *command: str) -> str:
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def list_outputs(folder: Path) -> set[str]:
    """Paths that DVC keeps in a project, as `dvc push` finds them."""
    with Repo(str(folder)) as repo:
        return {Path(out.fs_path).relative_to(folder).as_posix() for out in repo.index.outs}


def commit(folder: Path) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "Change")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A project with an input that lies elsewhere, and a stage that reads it."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for name in (".gitignore", ".dvcignore", "data/inputs/speech/.gitignore", "data/recordings/.gitignore"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)  # DVC looks for no .dvc file where it takes a folder for ignored
    elsewhere.mkdir()
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
    dvc(project, "import-url", "-q", str(elsewhere), SAID)
    commit(project)
    monkeypatch.setattr(working_copy, "ROOT", project)
    return project


def train(home: Home, url: str | None) -> WorkingCopy:
    copy = WorkingCopy.open(home)
    copy.use_remote(url)
    copy.take_inputs(lambda: False)
    copy.reproduce(("train",), None, lambda: False)
    return copy


def test_data_pushed_to_s3_by_one_machine_are_taken_by_another(s3, checkout, home, tmp_path, monkeypatch):
    first = train(home, "s3://studio/data")
    assert (first.folder / "model").read_text() == "hello" and (tmp_path / "runs").read_text() == "ran "
    assert set(first.data()) == {SAID} and list_outputs(first.folder) == {SAID, "model"}

    # Another machine has the commit, but neither the input's source nor a cache. Nothing is trained there.
    other = tmp_path / "other"
    run(tmp_path, "git", "clone", "-q", str(checkout), str(other))
    monkeypatch.setattr(working_copy, "ROOT", other)
    second = train(Home(tmp_path / "other-home"), "s3://studio/data")
    assert (second.folder / "model").read_text() == "hello" and (second.folder / SAID / "a.txt").is_file()
    assert (tmp_path / "runs").read_text() == "ran "


def test_a_remote_that_is_away_costs_no_training(s3, checkout, home, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as away, pytest.raises(Unavailable, match="The training is kept: run"):
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        train(home, "s3://studio/later")
    assert "what it has is made again" in capfd.readouterr().out
    train(home, "s3://studio/later")
    train(home, None)  # the setting was taken away
    assert (tmp_path / "runs").read_text() == "ran "


def test_a_folder_as_remote_is_seen_from_the_checkout(checkout, home, tmp_path):
    train(home, "../shared-data")
    assert (tmp_path / "shared-data" / "files").is_dir() and (tmp_path / "shared-data" / "runs").is_dir()


def test_a_changed_input_repeats_the_stage_and_a_removed_one_is_gone(checkout, home, tmp_path):
    (tmp_path / "elsewhere" / "a.txt").write_text("goodbye")
    assert (train(home, None).folder / "model").read_text() == "hello"
    dvc(checkout, "update", "-q", f"{SAID}.dvc")
    with pytest.raises(UserError, match="said.dvc differs from the last commit; commit it"):
        train(home, None)
    commit(checkout)
    assert (train(home, None).folder / "model").read_text() == "goodbye"
    (tmp_path / "more").mkdir(), (tmp_path / "more" / "b.txt").write_text("more")
    dvc(checkout, "import-url", "-q", str(tmp_path / "more"), "data/inputs/speech/more")
    (checkout / f"{SAID}.dvc").unlink()
    commit(checkout)
    copy = train(home, None)
    assert (copy.folder / "model").read_text() == "more" and not (copy.folder / SAID).exists()
    assert (tmp_path / "runs").read_text() == "ran ran ran "


def test_an_input_that_lies_nowhere_is_named(checkout, home):
    pointer = yaml.safe_load((checkout / f"{SAID}.dvc").read_text())
    pointer["outs"][0]["md5"] = "0" * 32 + ".dir"
    (checkout / f"{SAID}.dvc").write_text(yaml.safe_dump(pointer))
    commit(checkout)
    with pytest.raises(UserError, match=f"{SAID}: neither the cache of .* has all of it; run"):
        train(home, None)


def test_an_input_needs_a_licence(checkout):
    with pytest.raises(UserError, match=f"{SAID} has no licence: expected a committed row"):
        input_sources(checkout)
    table = checkout / "data" / "inputs" / "licences.csv"
    table.write_text(f"input,use,licence,consent\n{SAID},audio,CC0-1.0,\n")
    with pytest.raises(UserError, match="in each of the columns input, use, licence, consent"):
        input_sources(checkout)
    table.write_text(f"input,use,licence,consent\n{SAID},audio,CC0-1.0,the speaker\n")
    [source] = input_sources(checkout)
    assert (source.source, source.use, source.licence) == (f"{SAID}; consent: the speaker", "audio", "CC0-1.0")
