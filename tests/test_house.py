"""The house itself: who may import whom, and that dvc.yaml, params.yaml and the code name the same stages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stereotalker.errors import UserError
from stereotalker.models import PRODUCTION_WEIGHTS
from stereotalker.params import ROOT, Params, load_params
from stereotalker.pipeline import PIPELINE_STAGES, TRAINING_STAGES

FORBIDDEN = {
    "stereotalker": {"flows", "tasks", "prefect", "ray", "mlflow", "dvc"},
    "tasks": {"flows"},
}
EXTRA_PACKAGES = ("anny", "mediapipe", "scenedetect", "s3fs")
PACKAGE_FILES = {
    "stereotalker": sorted((ROOT / "stereotalker").rglob("*.py")),
    ".": sorted(path for folder in ("flows", "tasks") for path in (ROOT / folder).rglob("*.py")),
}
COMMAND_LINE = ROOT / "stereotalker" / "cli"  # the only package of the library that may call flows and tasks


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports; `stereotalker.tasks` and `stereotalker.flows` count as `tasks`, `flows`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = node.module.split(".")
            found.add(names[1] if names[0] == "stereotalker" and names[1:2] in (["tasks"], ["flows"]) else names[0])
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder):
    for path in files(folder):
        if not path.is_relative_to(COMMAND_LINE):
            assert not imports(path) & FORBIDDEN[folder], f"{path} imports {imports(path) & FORBIDDEN[folder]}"


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("ray", "tasks/cluster.py"),
        ("mlflow", "tasks/tracking.py"),
        ("apprise", "tasks/notify.py"),
        ("c2pa", "stereotalker/media/content_credentials.py"),
    ],
)
def test_only_one_file_knows(library, owner):
    knowing = {
        p.relative_to(ROOT).as_posix()
        for folder in ("stereotalker", "tasks", "flows")
        for p in files(folder)
        if library in imports(p)
    }
    assert knowing == {owner}


def test_stages_agree():
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(described) == set(PIPELINE_STAGES)
    assert set(PIPELINE_STAGES) <= set(Params.model_fields)
    assert set(PRODUCTION_WEIGHTS) <= set(TRAINING_STAGES)
    for name, stage in described.items():
        assert stage["cmd"] == f"stereotalker stage {name}"
        assert any(param.split(".")[0] == name for param in stage["params"])
        for dependency in stage["deps"]:
            assert dependency.startswith("data/") or (ROOT / dependency).exists(), dependency


def test_every_module_imports_without_extras():
    """In a process that cannot import any package of an extra."""
    modules = [
        ".".join(("stereotalker", *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__")
        for folder, path in ((folder, path) for folder in ("stereotalker", ".") for path in PACKAGE_FILES[folder])
        if path.name != "__main__.py"
    ]
    program = "import sys, importlib\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in EXTRA_PACKAGES)
    program += f"for name in {modules!r}: importlib.import_module(name)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr[-2000:]


def test_scales_differ_in_numbers_only(tiny_params):
    mini = load_params(ROOT / "params.yaml")
    assert mini.scale == "mini" and tiny_params.scale == "tiny"
    assert tiny_params.dense.training.steps < mini.dense.training.steps
    assert tiny_params.render.patch == mini.render.patch


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("crf: 18", "crf: 99"), "video.crf"),
        (("crf: 18", "quality: 3"), "video.quality"),
        (("reader: auto #", "reader: blender #"), "body.reader"),
        (("scale: mini", "scale: ["), "not valid YAML"),
        (("held_out: 60", "held_out: 1400"), "held_out must be less than utterances"),
        (("first_held_out: 5000", "first_held_out: 150"), "first_held_out must be more than 175"),
        (("ava: 21,", "ava: -5,"), "people.avatars.ava"),
        (("portrait_size: 512", "portrait_size: 300"), "multiple of portrait_size"),
    ],
)
def test_bad_params_are_named(tmp_path, change, complaint):
    text = (ROOT / "params.yaml").read_text()
    assert change[0] in text
    (tmp_path / "params.yaml").write_text(text.replace(*change, 1))
    with pytest.raises(UserError, match=complaint):
        load_params(tmp_path / "params.yaml")
