"""MediaPipe as the detector: how it is got, and real pictures where it is at hand."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stereotalker.avatar import fitted
from stereotalker.avatar import mediapipe as detectors
from stereotalker.avatar.evaluate import warp_psnr
from stereotalker.avatar.fitted import fit_portrait
from stereotalker.avatar.library import RECORD
from stereotalker.avatar.portray import portray
from stereotalker.body.layout import REGION
from stereotalker.clip import ClipMaker
from stereotalker.errors import ClipError, UserError
from stereotalker.manifest import Clip
from stereotalker.store import Store
from tests.conftest import REAL_DATA


def test_without_model_files_one_clear_error(tmp_path):
    pytest.importorskip("mediapipe", reason="the extra [photo] is not installed")
    with pytest.raises(UserError, match="face_landmarker.task.*`stereotalker avatar detector` fetches them"):
        detectors.MediaPipe(tmp_path)
    for name in ("face_landmarker.task", "selfie_segmenter.tflite", "pose_landmarker_lite.task", "hand_landmarker.task"):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(UserError, match="SHA-256 .* is none that is known"):
        detectors.MediaPipe(tmp_path)
    with pytest.raises(UserError, match="does not hold"):
        detectors.copy_from(tmp_path, tmp_path / "home")


def test_without_the_extra_one_clear_error(monkeypatch):
    monkeypatch.setattr(detectors, "version", lambda name: (_ for _ in ()).throw(detectors.PackageNotFoundError(name)))
    with pytest.raises(UserError, match=r"extra \[photo\].*libEGL.*usage metrics"):
        detectors.detector_version()


def test_a_download_that_is_not_what_was_promised_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "wrong").mkdir()
    monkeypatch.setattr(detectors, "_SOURCE", (tmp_path / "wrong").as_uri())
    with pytest.raises(UserError, match="cannot be fetched"):
        detectors.fetch(tmp_path / "home")
    for name, (path, _) in detectors.FILES.items():
        target = tmp_path / "wrong" / path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"virus")
    with pytest.raises(UserError, match="is not the expected"):
        detectors.fetch(tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())


@pytest.fixture(scope="module")
def detector():
    folder = REAL_DATA / "detectors"
    if not (folder / "face_landmarker.task").is_file():
        pytest.skip(f"MediaPipe's model files not found at {folder}; set STEREOTALKER_DATA to the folder that holds detectors/")
    try:
        made = detectors.MediaPipe(folder)
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


def test_a_real_portrait(detector, portrait, body, known):
    found = portray(portrait, "real", detector, body, known)
    r = found.residuals
    assert r.face < 0.003 and r.face_fit < 0.01 and r.silhouette_iou > 0.97 and r.wrist < 0.04
    assert warp_psnr(found.avatar, portrait, body) > 32


@pytest.mark.parametrize("name, share", [("man_0003", 0.87), ("woman_0269", 0.97)])
def test_fingers_that_the_detector_sees_are_hands(detector, body, known, name, share):
    """Before dark sleeves, beside whose fingers a fit has its own; before a wall of the skin's colour."""
    path = REAL_DATA / "portraits" / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    picture = np.asarray(Image.open(path).convert("RGB"))
    avatar = portray(picture, name, detector, body, known).avatar
    columns, rows = np.concatenate([points[2:] for points in detector(picture).hands.values()]).astype(int).T
    assert (avatar.regions[rows, columns] == REGION["hands"]).mean() > share
    assert warp_psnr(avatar, picture, body) > 34


def test_head_and_shoulders_in_every_shape_of_frame(detector, portrait, body, known):
    shoulders = portrait[:520, 250:760]
    found = portray(shoulders, "crop", detector, body, known)
    assert not found.avatar.arms and "no hand" in found.notes[0] and found.residuals.face < 0.003 and found.residuals.silhouette_iou > 0.93
    landscape = np.pad(portrait, ((0, 0), (300, 300), (0, 0)), mode="edge")[::2, ::2]
    assert portray(landscape, "wide", detector, body, known).residuals.face < 0.003


@pytest.mark.parametrize("kind", ["empty", "two", "back", "cartoon", "tiny"])
def test_pictures_that_show_no_speaker(detector, portrait, body, known, kind):
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
        portray(np.ascontiguousarray(picture), "x", detector, body, known)


def test_the_astronaut_is_fitted_or_refused_for_what_she_wears(detector, body, known):
    path = REAL_DATA / "portraits" / "astronaut.png"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    with pytest.raises(ClipError, match="bulky"):
        portray(np.asarray(Image.open(path).convert("RGB")), "astronaut", detector, body, known)


def test_one_fit_for_a_portrait_named_in_a_batch(detector, portrait, tiny_models, home, tmp_path, monkeypatch):
    Image.fromarray(portrait[:520, 250:760]).save(tmp_path / "me.png")
    shutil.copytree(REAL_DATA / "detectors", home.detectors)
    monkeypatch.setenv("STEREOTALKER_HOME", str(home.root))
    store = Store(home.store)
    key, folder = fit_portrait(tmp_path / "me.png", tiny_models, store)
    assert {path.name for path in folder.iterdir()} >= {RECORD, "card.png", "fit.json"}
    monkeypatch.setattr(fitted, "portray", lambda *_: pytest.fail("fitted twice"))
    assert fit_portrait(tmp_path / "me.png", tiny_models, store) == (key, folder)
    notes = {name: ClipMaker(tiny_models, store).notes(Clip(id="a", avatar=name, script="x")) for name in (str(tmp_path / "me.png"), "ava")}
    assert "no hand is in the picture" in notes[str(tmp_path / "me.png")][0] and notes["ava"] == ()
