"""`dvc repro` at scale tiny: data, training and evaluation of every stage, in a copy of the project."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stereotalker.flows.retrain import gates, read_metrics
from stereotalker.params import ROOT


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "stereotalker", copy / "stereotalker", ignore=shutil.ignore_patterns("__pycache__"))
    params = (copy / "params.yaml").read_text().replace("scale: mini", "scale: tiny")
    (copy / "params.yaml").write_text(params)
    shutil.rmtree(copy / "stereotalker" / "weights")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STEREOTALKER_HOME": str(copy / "runs"),
    }

    def dvc(*arguments):
        command = [sys.executable, "-m", "dvc", *arguments]
        answer = subprocess.run(
            command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert answer.returncode == 0, answer.stdout[-3000:]
        return answer.stdout

    dvc("init", "--no-scm", "-q")
    (copy / "first.log").write_text(dvc("repro"))
    (copy / "second.log").write_text(dvc("repro"))
    return copy


def test_every_stage_ran_once(reproduced):
    first = (reproduced / "first.log").read_text()
    for stage in (
        "speech",
        "people",
        "audio",
        "motion",
        "gestures",
        "masks",
        "dense",
        "render",
        "ablation",
        "evaluate",
    ):
        assert f"Running stage '{stage}'" in first
    assert "Running stage 'body'" not in first  # the shipped body is what dvc.lock says
    assert "Running stage" not in (reproduced / "second.log").read_text()


def test_metrics_have_their_keys_and_baselines(reproduced):
    expected = {
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
    for name, keys in expected.items():
        table = json.loads((reproduced / "metrics" / f"{name}.json").read_text())
        assert keys <= set(table) and all(isinstance(v, int | float) for v in table.values())
    metrics = read_metrics(reproduced / "metrics")
    assert metrics["render.psnr_front_warp"] > metrics["render.psnr_copy"]
    assert metrics["people.bilabial_closed"] == 1.0


def test_gates_name_what_falls_short(tiny_params):
    limits = tiny_params.evaluate.gates
    assert gates(tiny_params, {name: low + 1 for name, low in limits.items()}) == []
    assert len(gates(tiny_params, {})) == len(limits)


def test_trainings_are_in_mlflow(reproduced):
    from stereotalker.runtime.home import Home
    from stereotalker.tasks.tracking import EXPERIMENTS, Tracker

    client = Tracker(Home(reproduced / "runs"), "training")._client
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENTS["training"]).experiment_id])
    assert {run.data.tags["stage"] for run in runs} == {
        "audio",
        "motion",
        "gestures",
        "masks",
        "dense",
        "render",
        "ablation",
    }
    assert all(
        run.info.status == "FINISHED" and max(run.data.metrics.get(name, 0) for name in ("loss", "none.loss")) > 0
        for run in runs
    )
