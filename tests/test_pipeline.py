"""Data, training and evaluation of every stage at scale tiny: in this process, and (slow) through `dvc repro`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stereotalker import pipeline
from stereotalker.flows.retrain import gates, read_metrics
from stereotalker.params import ROOT, load_params
from stereotalker.runtime.home import Home
from stereotalker.tasks.tracking import EXPERIMENTS, Tracker
from stereotalker.tasks.train import run_stage

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dataset")]

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
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(ROOT / name, copy / name)
    ignored = shutil.ignore_patterns("__pycache__", "flows", "tasks")
    shutil.copytree(ROOT / "stereotalker", copy / "stereotalker", ignore=ignored)
    params = (copy / "params.yaml").read_text().replace("scale: mini", "scale: tiny")
    (copy / "params.yaml").write_text(params)
    shutil.rmtree(copy / "stereotalker" / "weights")
    return copy


@pytest.fixture(scope="module")
def trained_project(tmp_path_factory, people) -> Path:
    """A project in which every stage has run in this process. The people are found: their recipe is the same."""
    project, before = copy_project(tmp_path_factory.mktemp("project")), Path.cwd()
    shutil.copytree(people.parent, project / "data")
    os.chdir(project)
    try:
        for stage in pipeline.PIPELINE_STAGES:
            if stage not in ("body", "avatar"):  # These need the package anny and the detector.
                run_stage(stage, load_params(project / "params.yaml"), Home(project / "runs"))
    finally:
        os.chdir(before)
    return project


def check_results(project: Path) -> None:
    for name, keys in METRICS.items():
        table = json.loads((project / "metrics" / f"{name}.json").read_text())
        assert keys <= set(table) and all(isinstance(v, int | float) for v in table.values())
    metrics = read_metrics(project / "metrics")
    assert metrics["render.psnr_front_warp"] > metrics["render.psnr_copy"]
    assert metrics["people.bilabial_closed"] == 1.0
    client = Tracker(Home(project / "runs"), "training")._client
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENTS["training"]).experiment_id])
    assert {run.data.tags["stage"] for run in runs} == set(TRAINED)
    assert all(
        run.info.status == "FINISHED" and max(run.data.metrics.get(name, 0) for name in ("loss", "none.loss")) > 0
        for run in runs
    )


def test_every_stage_writes_its_weights_metrics_and_tracking_run(trained_project):
    assert {path.stem for path in (trained_project / "stereotalker" / "weights").glob("*.safetensors")} == {
        "audio", "motion", "gestures", "masks", "render"
    }  # fmt: skip
    check_results(trained_project)


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
    first, second = dvc("repro"), dvc("repro")
    for stage in (*TRAINED, "speech", "people", "photographs", "evaluate"):
        assert f"Running stage '{stage}'" in first
    assert "Running stage 'body'" not in first  # The shipped body matches dvc.lock.
    assert "Running stage" not in second
    check_results(project)


def test_gates_name_every_metric_that_is_missing_or_too_low(tiny_params):
    limits = tiny_params.evaluate.gates
    assert gates(tiny_params, {name: low + 1 for name, low in limits.items()}) == []
    assert len(gates(tiny_params, {})) == len(limits)
    failures = gates(tiny_params, {name: low - 1 for name, low in limits.items()})
    assert [line.split(" is ")[0] for line in failures] == list(limits)
