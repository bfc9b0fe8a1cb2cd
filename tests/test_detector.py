"""MediaPipe as the detector: how it is got, and real pictures where it is at hand."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stereotalker.avatar import mediapipe_detector
from stereotalker.avatar.fit_portrait import fit_portrait
from stereotalker.avatar.library import RECORD_FILE
from stereotalker.errors import ClipError, UserError
from stereotalker.evaluation.avatars import warp_psnr
from stereotalker.params import ROOT
from stereotalker.production import avatars
from stereotalker.production.avatars import fit_portrait_once
from stereotalker.production.clip_stages import ClipMaker, SoundStage
from stereotalker.production.conversation import SpokenTurn, turns_of
from stereotalker.production.manifest import Clip
from stereotalker.records import Speech
from stereotalker.smplx_layout import REGION
from stereotalker.store.local import Store
from tests.conftest import REAL_DATA

pytestmark = pytest.mark.integration


def test_without_model_files_one_clear_error(tmp_path):
    pytest.importorskip("mediapipe", reason="the extra [photo] is not installed")
    with pytest.raises(UserError, match="face_landmarker.task.*`stereotalker avatar detector` fetches them"):
        mediapipe_detector.MediaPipe(tmp_path)
    for name in (
        "face_landmarker.task",
        "selfie_segmenter.tflite",
        "pose_landmarker_lite.task",
        "hand_landmarker.task",
    ):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(UserError, match="SHA-256 .* is none that is known"):
        mediapipe_detector.MediaPipe(tmp_path)
    with pytest.raises(UserError, match="does not hold"):
        mediapipe_detector.copy_from(tmp_path, tmp_path / "home")


def test_without_the_extra_one_clear_error(monkeypatch):
    monkeypatch.setattr(
        mediapipe_detector, "version", lambda name: (_ for _ in ()).throw(mediapipe_detector.PackageNotFoundError(name))
    )
    with pytest.raises(UserError, match=r"extra \[photo\].*libEGL.*usage metrics"):
        mediapipe_detector.detector_version()


def test_a_download_that_is_not_what_was_promised_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "wrong").mkdir()
    monkeypatch.setattr(mediapipe_detector, "_SOURCE", (tmp_path / "wrong").as_uri())
    with pytest.raises(UserError, match="cannot be fetched"):
        mediapipe_detector.fetch(tmp_path / "home")
    for name, (path, _) in mediapipe_detector.FILES.items():
        target = tmp_path / "wrong" / path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"virus")
    with pytest.raises(UserError, match="is not the expected"):
        mediapipe_detector.fetch(tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())


@pytest.fixture(scope="module")
def detector():
    folder = REAL_DATA / "detectors"
    if not (folder / "face_landmarker.task").is_file():
        pytest.skip(
            f"MediaPipe's model files not found at {folder}; set STEREOTALKER_DATA to the folder that holds detectors/"
        )
    try:
        made = mediapipe_detector.MediaPipe(folder)
    except UserError as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    path = REAL_DATA / "portraits" / "woman_0101.png"
    if not path.is_file():
        pytest.skip(f"portraits not found at {path.parent}")
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_real_portrait(detector, portrait, body, calibration):
    found = fit_portrait(portrait, "real", detector, body, calibration)
    r = found.residuals
    assert r.face < 0.003 and r.face_fit < 0.01 and r.silhouette_iou > 0.97 and r.wrist < 0.04
    assert warp_psnr(found.avatar, portrait, body) > 29


@pytest.mark.parametrize("name, share, psnr", [("man_0003", 0.87, 31), ("woman_0269", 0.97, 26)])
def test_fingers_that_the_detector_sees_are_hands(detector, body, calibration, name, share, psnr):
    """Before dark sleeves, beside whose fingers a fit has its own; before a wall of the skin's colour.

    The fitted arms of woman_0269 cover the edge of her top, which costs 3 dB.
    """
    path = REAL_DATA / "portraits" / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    picture = np.asarray(Image.open(path).convert("RGB"))
    avatar = fit_portrait(picture, name, detector, body, calibration).avatar
    columns, rows = np.concatenate([points[2:] for points in detector(picture).hands.values()]).astype(int).T
    assert (avatar.regions[rows, columns] == REGION["hands"]).mean() > share
    assert warp_psnr(avatar, picture, body) > psnr


def test_head_and_shoulders_in_every_shape_of_frame(detector, portrait, body, calibration):
    shoulders = portrait[:520, 250:760]
    found = fit_portrait(shoulders, "crop", detector, body, calibration)
    assert (
        not found.avatar.arms
        and "no hand" in found.notes[0]
        and found.residuals.face < 0.003
        and found.residuals.silhouette_iou > 0.93
    )
    landscape = np.pad(portrait, ((0, 0), (300, 300), (0, 0)), mode="edge")[::2, ::2]
    assert fit_portrait(landscape, "wide", detector, body, calibration).residuals.face < 0.003


@pytest.mark.parametrize("kind", ["empty", "two", "back", "cartoon", "tiny"])
def test_pictures_that_show_no_speaker(detector, portrait, body, calibration, kind):
    wall = np.full((512, 512, 3), 150, np.uint8)
    head = portrait[:520, 250:760]
    if kind == "two":
        picture, complaint = np.concatenate([head, np.flip(head, 1)], 1), "2 faces were found"
    elif kind == "back":
        picture, complaint = portrait.copy(), "no face was found|no person was found"
        picture[30:330, 350:660] = (40, 30, 28)  # nothing but hair where the face was
    elif kind == "cartoon":
        drawn = Image.fromarray(wall)
        pen = ImageDraw.Draw(drawn)
        pen.ellipse((160, 80, 350, 300), fill=(255, 220, 120), outline=(0, 0, 0), width=6)
        for x in (215, 295):
            pen.ellipse((x - 14, 160, x + 14, 188), fill=(0, 0, 0))
        pen.arc((205, 190, 305, 260), 20, 160, fill=(0, 0, 0), width=6)
        pen.rectangle((130, 300, 380, 512), fill=(60, 90, 220))
        picture, complaint = np.asarray(drawn), "is it drawn"
    elif kind == "tiny":
        picture, complaint = portrait[::20, ::20], "expected at least 256 px"
    else:
        picture, complaint = wall, "no person was found"
    with pytest.raises(ClipError, match=complaint):
        fit_portrait(np.ascontiguousarray(picture), "x", detector, body, calibration)


def test_the_astronaut_is_fitted_or_refused_for_what_she_wears(detector, body, calibration):
    path = REAL_DATA / "portraits" / "astronaut.png"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    with pytest.raises(ClipError, match="bulky"):
        fit_portrait(np.asarray(Image.open(path).convert("RGB")), "astronaut", detector, body, calibration)


def test_one_fit_for_a_portrait_named_in_a_batch(detector, portrait, tiny_models, home, tmp_path, monkeypatch):
    Image.fromarray(portrait[:520, 250:760]).save(tmp_path / "me.png")
    shutil.copytree(REAL_DATA / "detectors", home.detectors)
    monkeypatch.setenv("STEREOTALKER_HOME", str(home.root))
    store = Store(home.store)
    key, folder = fit_portrait_once(tmp_path / "me.png", tiny_models, store)
    assert {path.name for path in folder.iterdir()} >= {RECORD_FILE, "card.png", "fit.json"}
    monkeypatch.setattr(avatars, "fit_portrait", lambda *_: pytest.fail("fitted twice"))
    assert fit_portrait_once(tmp_path / "me.png", tiny_models, store) == (key, folder)
    silence = Speech(np.zeros(16000, np.float32), -20.0)
    notes = {}
    for name in (str(tmp_path / "me.png"), "ava"):
        clip = Clip(id="a", avatar=name, script="x")
        turn = SpokenTurn(turns_of(clip)[0], 0.0, "key", silence)
        notes[name] = ClipMaker(tiny_models, store).notes(clip, SoundStage("key", 1.0, (turn,), (silence,)))
    assert "no hand is in the picture" in notes[str(tmp_path / "me.png")][0] and notes["ava"] == ()


def test_a_gray_picture_is_stopped_before_it_ends_a_task(detector, portrait):
    """MediaPipe would refuse every later picture, too."""
    with pytest.raises(AssertionError):
        detector(portrait[..., 0])
    assert detector(portrait).faces == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phone_screenshot", "small_in_wide", "tall_9x16", "ultrawide"])
def test_people_in_screenshots_and_panoramas_are_found_in_crops(tiny_models, tmp_path, name):
    folder = ROOT.parent / "shared" / "cases" / "pictures"
    if not folder.is_dir() or not (REAL_DATA / "detectors").is_dir():
        pytest.skip(f"pictures or model files not found at {folder} and {REAL_DATA / 'detectors'}")
    avatar = tiny_models.params.avatar.model_copy(update={"detectors": REAL_DATA / "detectors"})
    models = replace(tiny_models, params=tiny_models.params.model_copy(update={"avatar": avatar}))
    _, entry = fit_portrait_once(folder / f"{name}.png", models, Store(tmp_path))
    fit = json.loads((entry / "fit.json").read_text())
    assert fit["residuals"]["silhouette_iou"] > 0.97 and "the portrait was cut to" in fit["notes"][-1]
