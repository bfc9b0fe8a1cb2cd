"""Data, training and evaluation of every stage at scale tiny: in this process, and (slow) through `dvc repro`."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import yaml
from PIL import Image

from stereotalker.evaluation import previews
from stereotalker.media.video_files import read_frames
from stereotalker.params import ROOT, load_params
from stereotalker.runtime.home import Home
from stereotalker.stages import STAGES
from stereotalker.store.digests import file_digest
from stereotalker.tasks import dvc_file
from stereotalker.tasks.tracking import EXPERIMENTS, Tracker
from stereotalker.tasks.train import run_stage
from stereotalker.training import loop

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dataset")]

# These need the package anny, or the detector.
UNAVAILABLE = ("body", "avatar", "evaluate_avatars", "evaluate_portraits", "evaluate_speech")
TRAINED = ("audio", "motion", "gestures", "masks", "dense", "render", "finish", "ablation")
METRICS = {
    "people": {"identities", "bilabial_closed"},
    "motion": {
        "bilabial_closed_synthetic",
        "lip_aperture_correlation",
        "lip_lag_frames",
        "lip_vertex_error_mm",
        "diversity_ratio",
        "jerk_ratio",
        "gesture_accuracy_with_prior",
        "gesture_accuracy_without_prior",
        "seam_speed_ratio",
    },
    "masks": {"mean_iou", "mean_iou_body", "hair_iou", "hands_iou"},
    "render": {
        "psnr_front",
        "psnr_front_warp",
        "psnr_front_wrong_fit",
        "psnr_20deg",
        "psnr_copy",
        "gain_over_warp_db",
        "flicker_ratio",
        "gain_view_experts_db",
        "gain_region_experts_db",
        "sharpness_last_over_first",
    },
}


def copy_project(copy: Path) -> Path:
    """Copy the files of the pipeline to the folder `copy`, at scale tiny and without the shipped weights."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, copy / name)
    ignored = shutil.ignore_patterns("__pycache__", "flows", "tasks")
    shutil.copytree(ROOT / "stereotalker", copy / "stereotalker", ignore=ignored)
    for name in ("recordings", "inputs"):
        shutil.copytree(ROOT / "data" / name, copy / "data" / name)
    params = (copy / "params.yaml").read_text().replace("scale: mini", "scale: tiny")
    (copy / "params.yaml").write_text(params)
    return copy


@pytest.fixture(scope="module")
def trained_project(tmp_path_factory, people) -> Path:
    """A project in which every stage has run in this process. The people are found: their recipe is the same."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    shutil.copytree(people.parent, project / "data", dirs_exist_ok=True)
    with contextlib.chdir(project), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PREVIEW_EVERY_S", -1.0)
        patch.setattr(previews, "_SECONDS", 2.0)
        for stage in STAGES:
            if stage not in UNAVAILABLE:
                run_stage(stage, load_params(project / "params.yaml"), Home(project / "runs"))
    return project


def check_results(project: Path) -> None:
    for name, keys in METRICS.items():
        table = json.loads((project / "metrics" / f"{name}.json").read_text())
        assert keys <= set(table) and all(isinstance(v, int | float) for v in table.values())
    render, people = (json.loads((project / "metrics" / f"{name}.json").read_text()) for name in ("render", "people"))
    assert render["psnr_front_warp"] > render["psnr_copy"] and people["bilabial_closed"] == 1.0
    client = Tracker(Home(project / "runs"), "training")._client
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENTS["training"]).experiment_id])
    assert {run.data.tags["stage"] for run in runs} == set(TRAINED)
    assert all(
        run.info.status == "FINISHED" and max(run.data.metrics.get(name, 0) for name in ("loss", "none.loss")) > 0
        for run in runs
    )


def test_every_stage_writes_its_weights_metrics_and_tracking_run(trained_project):
    assert {path.stem for path in (trained_project / "artifacts" / "weights").glob("*.safetensors")} == {
        "audio", "motion", "gestures", "masks", "render"
    }  # fmt: skip
    check_results(trained_project)


# Folder below data/logs -> ending of the previews there.
PREVIEWS = {
    "audio": "png", "motion/prior": "md", "motion": "mp4", "gestures": "png", "masks": "jpg", "dense": "jpg",
    "render": "jpg", "ablation/none": "jpg", "ablation/view": "jpg", "ablation/region": "jpg", "finish": "jpg",
    "evaluate/prior": "md",
}  # fmt: skip


def test_every_training_shows_its_model_to_a_person(trained_project):
    """Previews are made after every step here, and the weights are those of a training that has hardly any, see the
    test of kill -9."""
    logs = trained_project / "data" / "logs"
    found = {path.relative_to(logs).parent.as_posix(): path for path in sorted(logs.rglob("0*.*"))}
    assert {name: path.suffix[1:] for name, path in found.items()} == PREVIEWS
    for name, path in found.items():
        assert len(list(path.parent.glob(f"*{path.suffix}"))) > 1, name
        if path.suffix == ".md":
            assert path.read_text().count("\n") > 2, name
        elif path.suffix == ".mp4":
            frames = read_frames(path)
            assert len(frames) > 10 and np.ptp(frames) > 100 and (frames[0] != frames[-1]).any()
        else:
            picture = np.asarray(Image.open(path).convert("RGB"))
            below_names = picture[40:] if path.suffix == ".png" else picture
            assert np.ptp(below_names) > 100 and len(np.unique(below_names)) > 50, name
    tracker = Tracker(Home(trained_project / "runs"), "training")
    [run] = tracker.find({"stage": "motion"})
    assert tracker.attached(run.id, found["motion"].name) == found["motion"].read_bytes()
    assert tracker.attached(run.id, f"prior.{found['motion/prior'].name}") == found["motion/prior"].read_bytes()


# Numbers of params.yaml, each with another value, and the stages that read it.
NUMBERS = {
    "speech.codecs": (0.4, {"speech"}),
    "test_set.words": (6, {"test_set"}),
    "audio.training.steps": (5, {"audio"}),
    "motion.guidance": (1.5, {"motion", "evaluate"}),
    "gestures.features": (5, {"gestures"}),
    "photographs.share": (0.25, {"photographs", "masks", "finish"}),
    "masks.training.learning_rate": (0.002, {"masks"}),
    "dense.training.steps": (4, {"dense"}),
    "render.steps": (3, {"evaluate"}),
    "finish.critic": (0.2, {"finish"}),
    "evaluate.words": (3, {"evaluate"}),
    "quality.black": (10.0, set()),
    "releases.wait_hours": (24, set()),
}


_RENDERER = {"render", "ablation", "finish", "evaluate"}
# The stages that follow if the outputs of those change, too.
FOLLOWERS = {
    "speech.codecs": {"audio", "motion", "gestures", "people", "photographs", "masks", "dense", *_RENDERER},
    "audio.training.steps": {"motion", "evaluate"},
    "motion.guidance": set(),
    "gestures.features": set(),  # figures stay comparable: the evaluation uses the autoencoder of the package
    "masks.training.learning_rate": {"dense", *_RENDERER},
    "dense.training.steps": _RENDERER,
    "finish.critic": {"evaluate"},
}


@pytest.fixture(scope="module")
def locked_project(trained_project) -> Path:
    """The trained project with a dvc.lock of what its stages wrote."""
    from dvc.repo import Repo

    with contextlib.chdir(trained_project):  # DVC takes paths of dvc.yaml from the working directory
        Repo.init(no_scm=True).close()
        with Repo() as repo:
            for stage in STAGES:
                if stage not in UNAVAILABLE:
                    repo.commit(stage, force=True)
    return trained_project


def stale(project: Path) -> set[str]:
    """The stages whose own inputs or parameters differ from dvc.lock."""
    from dvc.repo import Repo

    with contextlib.chdir(project), Repo() as repo:
        return set(repo.status()) - set(UNAVAILABLE)


def followers(project: Path, stages: set[str]) -> set[str]:
    """The stages that read what these write, directly or not; of those that run here."""
    from dvc.repo import Repo

    with contextlib.chdir(project), Repo() as repo:
        graph = repo.index.graph  # from a stage to those that it needs
        named = {getattr(node, "name", node.addressing): node for node in graph}
        found = {getattr(n, "name", "") for stage in stages for n in nx.ancestors(graph, named[stage])}
    return found & set(STAGES) - set(UNAVAILABLE) - stages


def test_a_changed_number_repeats_the_stages_that_read_it_and_no_other(locked_project):
    path = locked_project / "params.yaml"
    text = path.read_text()
    assert stale(locked_project) == set()
    for name, (value, stages) in NUMBERS.items():
        described = yaml.safe_load(text)
        section, *rest = name.split(".")
        target = described[section]
        for key in rest[:-1]:
            target = target[key]
        if isinstance(described[section].get("tiny"), dict):
            described[section]["tiny"].pop(rest[0], None) if len(rest) == 1 else None
        target[rest[-1]] = value
        path.write_text(yaml.safe_dump(described))
        assert stale(locked_project) == stages, name
    path.write_text(text)


def test_the_stages_that_follow_are_those_that_read_what_changes(locked_project):
    for name, expected in FOLLOWERS.items():
        assert followers(locked_project, NUMBERS[name][1]) == expected, name


def test_changed_code_makes_what_imports_it_stale(locked_project):
    sampler = locked_project / "stereotalker" / "diffusion" / "sampling.py"
    text = sampler.read_text()
    sampler.write_text(text + "\n\nCHANGED = 1\n")
    found = stale(locked_project)
    sampler.write_text(text)
    assert "evaluate" in found and not found & {"speech", "audio", "test_set", "people"}


def test_dvc_draws_the_curve_of_a_training(locked_project):
    from dvc.repo import Repo

    with contextlib.chdir(locked_project), Repo() as repo:
        drawn = repo.plots.show(["artifacts/curves/audio"])["workspace"]
    [point] = drawn["sources"]["data"]["artifacts/curves/audio/loss.tsv"]["data"]
    assert float(point["loss"]) > 0 and point["step"] == "4"


def test_dvc_yaml_names_the_code_of_every_stage():
    text = (ROOT / "dvc.yaml").read_text()
    assert dvc_file.updated(text) == text, "run `make dvc-file`"


def test_every_file_of_metrics_is_written_by_a_stage():
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    entries = [entry for stage in described for part in ("outs", "metrics", "plots") for entry in stage.get(part, ())]
    written = {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}
    tracked = subprocess.run(["git", "ls-files", "metrics"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert set(tracked) <= written, sorted(set(tracked) - written)


# Each stage is killed when it has written its first checkpoint, and then runs again.
KILLED = """
import os, sys
from pathlib import Path
from stereotalker.runtime.environment import set_library_defaults
set_library_defaults()
import torch
from stereotalker.params import load_params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages import TRAINING_STAGES, stage_function
from stereotalker.training import loop

loop.CHECKPOINT_EVERY_S = -1.0
original, steps = loop._save, []

class Steps(Log):
    def __call__(self, name, value, step):
        if name.endswith("loss"):
            steps.append(step)

def save_and_die(*arguments):
    original(*arguments)
    os._exit(9)

def run(stage, is_killed):
    torch.set_num_threads(1)
    if is_killed:
        loop._save = save_and_die
    stage_function(stage)(load_params(Path("params.yaml")), Steps())
    return min(steps)

for stage in TRAINING_STAGES:
    stage_function(stage)  # is imported once, before the forks
for stage in TRAINING_STAGES:
    for is_killed in (True, False):
        process = os.fork()
        if not process:
            first = run(stage, is_killed)
            print(stage, "begins with step", first, flush=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code == (9 if is_killed else 0), (stage, is_killed, code)
"""


def test_every_training_goes_on_after_kill_9_and_ends_with_the_same_weights(trained_project, tmp_path):
    project = copy_project(tmp_path)
    for name in ("speech", "people", "photographs"):
        shutil.copytree(trained_project / "data" / name, project / "data" / name)
    environment = {**os.environ, "STEREOTALKER_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", KILLED]
    answer = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=400)
    assert answer.returncode == 0, answer.stdout[-1000:] + answer.stderr[-3000:]
    assert answer.stdout.count("begins with step") == len(TRAINED)
    trained = [path.relative_to(trained_project) for path in trained_project.glob("artifacts/weights/*")]
    trained += [path.relative_to(trained_project) for path in trained_project.glob("data/**/*.safetensors")
                if path.parent.name in ("data", "ablation")]  # fmt: skip
    assert len(trained) == 10
    for path in trained:
        assert file_digest(project / path) == file_digest(trained_project / path), path
    assert not list((project / "data").glob("*.checkpoint"))


@pytest.mark.slow
def test_dvc_runs_every_stage_once_and_then_none(tmp_path):
    project = copy_project(tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STEREOTALKER_HOME": str(project / "runs"),
    }

    def dvc(*arguments):
        command = [sys.executable, "-m", "dvc", *arguments]
        answer = subprocess.run(
            command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert answer.returncode == 0, answer.stdout[-3000:]
        return answer.stdout

    dvc("init", "--no-scm", "-q")
    stages = [stage for stage in STAGES if stage not in UNAVAILABLE]
    first, second = dvc("repro", *stages), dvc("repro", *stages)
    for stage in stages:
        assert f"Running stage '{stage}'" in first
    assert "Running stage" not in second
    check_results(project)
