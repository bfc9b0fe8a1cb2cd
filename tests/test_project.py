"""The project itself: modules, scales and parameters. dvc.yaml, params.yaml and the code name the same stages."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from stereotalker.errors import UserError
from stereotalker.params import ROOT, Params, Scale, load_params
from stereotalker.stages import EVALUATIONS, STAGES, TRAINING_STAGES
from stereotalker.weights import PRODUCTION_WEIGHTS

EXTRA_PACKAGES = ("anny", "mediapipe", "scenedetect", "s3fs")
PACKAGE_FILES = {
    "stereotalker": sorted((ROOT / "stereotalker").rglob("*.py")),
    ".": sorted(path for folder in ("flows", "tasks") for path in (ROOT / folder).rglob("*.py")),
}


def test_a_worker_imports_only_what_it_renders_with():
    program = (
        "import sys; import stereotalker.tasks.worker; "
        "heavy = ('accelerate', 'peft', 'transformers', 'torch._dynamo', 'mlflow'); "
        "print([name for name in heavy if name in sys.modules]);"
        "import peft, transformers, torch; import torch._dynamo; "
        "assert torch.compiler.disable.__module__ == 'torch.compiler'"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"


def test_dvc_params_and_code_name_the_same_stages():
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(described) == set(STAGES)
    assert set(STAGES) - set(EVALUATIONS) <= set(Params.model_fields)
    assert set(PRODUCTION_WEIGHTS) <= set(TRAINING_STAGES)
    for name, stage in described.items():
        assert stage["cmd"] == f"stereotalker stage {name}"
        assert any(param.split(".")[0] in (name, name.split("_")[0]) for param in stage["params"])
        for dependency in stage["deps"]:
            assert dependency.startswith(("data/", "artifacts/")) or (ROOT / dependency).exists(), dependency


def test_every_module_imports_without_extras():
    """The modules are imported in a process that cannot import any package of an extra."""
    modules = [
        ".".join(("stereotalker", *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__")
        for folder, path in ((folder, path) for folder in ("stereotalker", ".") for path in PACKAGE_FILES[folder])
        if path.name != "__main__.py"
    ]
    program = "import sys, importlib\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in EXTRA_PACKAGES)
    program += f"for name in {modules!r}: importlib.import_module(name)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr[-2000:]


def params_at_scale(scale, folder) -> Params:
    path = folder / f"{scale}.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("scale: mini", f"scale: {scale}"))
    return load_params(path)


def values(section: dict, prefix: str = "") -> dict[str, object]:
    """Every value of the nested sections, by its dotted name. Avatars and gates stay whole: their rows may differ."""
    result: dict[str, object] = {}
    for name, value in section.items():
        is_section = isinstance(value, dict) and name not in ("avatars", "gates")
        result |= values(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value}
    return result


@pytest.mark.parametrize("scale", [scale for scale in get_args(Scale) if scale != "mini"])
def test_scales_have_the_same_keys_and_types_of_values(scale, tmp_path):
    mini, other = (values(params_at_scale(name, tmp_path).model_dump()) for name in ("mini", scale))
    assert mini.keys() == other.keys()
    changed = {name for name in mini if mini[name] != other[name]}
    assert "scale" in changed and len(changed) > 1
    for name in changed - {"scale"}:
        kinds = {type(mini[name]), type(other[name])} - {type(None)}
        assert len(kinds) == 1 or any(isinstance(v[name], Path) for v in (mini, other)), name


def test_the_free_body_is_read_without_the_licensed_package(tiny_params):
    body = tiny_params.body
    assert body.reader == "auto" and body.file_reader == "native"
    licensed = body.model_copy(update={"file": Path("models/SMPLX_NEUTRAL.npz")})
    assert licensed.file_reader == "smplx"
    assert licensed.model_copy(update={"reader": "native"}).file_reader == "native"


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
def test_invalid_params_are_refused_with_their_name(tmp_path, change, complaint):
    text = (ROOT / "params.yaml").read_text()
    assert change[0] in text
    (tmp_path / "params.yaml").write_text(text.replace(*change, 1))
    with pytest.raises(UserError, match=complaint):
        load_params(tmp_path / "params.yaml")


@pytest.mark.integration
def test_mypy_finds_no_wrong_type():
    answer = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stdout[-3000:]
