"""Store keys: every input changes them, and what is hashed is what is used."""

import ast
import shutil
from dataclasses import replace

import pytest
import torch

from stereotalker.errors import Unavailable
from stereotalker.models import Models
from stereotalker.runtime.device import arithmetic, check_device
from stereotalker.store import code, keys
from stereotalker.tasks.worker import RenderWorker, versions_of
from stereotalker.weights import weights_file

pytestmark = pytest.mark.integration

KEY_ARGUMENTS = {
    keys.speech_key: [("script", "hi", "en-us", "", 165), -20.0],
    keys.scene_sound_key: [[[0.0, "k"]], -20.0],
    keys.motion_key: ["s", "c", 25.0, 8, ["a", "b", "m"], {"steps": 4}, 2, "cpu bfloat16"],
    keys.portrait_key: [["picture"], ["mediapipe 1", "model"], [1024, 2160], "body", "calibration"],
    keys.avatar_key: ["record", "portrait"],
    keys.clip_render_key: ["m", "a", ["body", "masks", "render"], [64, 64], {"steps": 1}, 3, "cpu bfloat16"],
    keys.segment_key: ["clip", 0, 8],
    keys.video_key: [[[0, 8, "k"]], None, "s", 25.0, "a.mp4", None, {"crf": 18}, None],
    keys.quality_key: ["v", [["m", "a", [{"place": "word 1"}]]], -20.0, [{}], {"black": 12}],
    keys.provenance_key: ["v", "signer", {"clip": "a"}],
}


def changed(value):
    if isinstance(value, str | None):
        return f"{value}!"
    if isinstance(value, int | float):
        return value + 1
    return {**value, "new": 1} if isinstance(value, dict) else [*value, "new"]


@pytest.mark.parametrize("make", KEY_ARGUMENTS, ids=lambda make: make.__name__)
def test_every_input_of_a_key_changes_it(make, monkeypatch):
    arguments = KEY_ARGUMENTS[make]
    found = {make(*arguments)}
    for place in range(len(arguments)):
        found.add(make(*arguments[:place], changed(arguments[place]), *arguments[place + 1 :]))
    if make is not keys.segment_key:  # it holds the key of its clip, which holds the code
        monkeypatch.setattr(keys, "stage_version", lambda stage: "another")
        found.add(make(*arguments))
    assert len(found) == len(arguments) + 1 + (make is not keys.segment_key)
    assert all(len(key) == 40 for key in found)


def test_the_code_of_a_stage_is_what_it_imports():
    own, libraries = code._imports(code.STAGE_MODULES["video"])
    assert "stereotalker.media.stereo" in own and "stereotalker.avatar.fit_portrait" not in own
    assert {"numpy", "ffmpeg", "imageio_ffmpeg"} <= libraries and "json" not in libraries
    of_clips = {module for modules in code.STAGE_MODULES.values() for module in code._imports(modules)[0]}
    assert not any(module.startswith(("stereotalker.cli", "stereotalker.tasks")) for module in of_clips)
    assert "mediapipe" in code._imports(code.STAGE_MODULES["portrait"])[1]


def test_samples_of_photographs_depend_on_the_code_that_makes_them():
    own, _ = code._imports(("training.photographs",))
    assert {"stereotalker.training.photographs", "stereotalker.control.reference_warp"} <= own
    of_clips = {module for modules in code.STAGE_MODULES.values() for module in code._imports(modules)[0]}
    assert "stereotalker.training.photographs" not in of_clips  # training does not make clips unfindable


def test_comments_and_docstrings_do_not_change_the_code_but_versions_do(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "_PACKAGE", tmp_path)
    texts = ['"""Doc."""\nX = 1  # why\n\n\ndef f():\n    """Doc."""\n', "X = 1\n\n\ndef f():\n    pass\n",
             "X = 2\n\n\ndef f():\n    pass\n"]  # fmt: skip
    for k, text in enumerate(texts):
        ast.parse(text)
        (tmp_path / f"m{k}.py").write_text(text)
    digests = [code._module_digest.__wrapped__(f"package.m{k}") for k in range(3)]
    assert digests[0] == digests[1] != digests[2]
    monkeypatch.undo()
    before = code.modules_version.__wrapped__(code.STAGE_MODULES["audio"])
    monkeypatch.setattr(code, "version", lambda name: "0.0")
    assert code.modules_version.__wrapped__(code.STAGE_MODULES["audio"]) != before


def test_weights_that_are_replaced_after_the_preflight_are_not_used(tiny_models, tmp_path):
    for path in tiny_models.folder.iterdir():
        shutil.copy(path, tmp_path)
    models, untouched = Models(tiny_models.params, tmp_path), Models(tiny_models.params, tiny_models.folder)
    before = models.digests["masks"]
    weights_file("masks", tmp_path).write_bytes(b"another night's training")
    assert models.digests["masks"] == before
    for (name, ours), theirs in zip(
        models.renderer.masks.state_dict().items(), untouched.renderer.masks.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_worker_with_another_version_of_anything_is_refused(tiny_models, tmp_path):
    libraries = code.library_versions()
    assert {"torch", "numpy", "diffusers"} <= libraries.keys() and all(libraries[name] for name in ("torch", "numpy"))
    versions = versions_of(tiny_models, libraries)
    assert libraries.items() <= versions.items()
    arguments = [tiny_models.params.model_dump_json(), str(tiny_models.folder), ("", "", "")]
    RenderWorker(*arguments, versions, str(tmp_path), str(tmp_path))
    for name in versions:
        with pytest.raises(Unavailable, match=f"this machine's {name} differ"):
            RenderWorker(*arguments, versions | {name: "another"}, str(tmp_path), str(tmp_path))


def test_a_renderer_computes_on_the_processor_unless_workers_have_a_gpu(tiny_models):
    assert str(tiny_models.renderer.device) == "cpu" and tiny_models.arithmetic == arithmetic("cpu")
    params = tiny_models.params.with_produce({"worker": {"gpus": 1}})
    assert replace(tiny_models, params=params).arithmetic == "cuda bfloat16"
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="no"):
            check_device("cuda")
