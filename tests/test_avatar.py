"""Portraits into avatars: the fit against a known truth, the shell, the library, consent; and with MediaPipe at hand, real pictures."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from scipy.spatial.transform import Rotation

from stereotalker.avatar import fitted
from stereotalker.avatar import mediapipe as detectors
from stereotalker.avatar.backdrop import fill_background, without_fringe
from stereotalker.avatar.calibrate import HAND_JOINTS, read_calibration
from stereotalker.avatar.card import draw_card
from stereotalker.avatar.evaluate import warp_psnr
from stereotalker.avatar.fit import fit, hand_points, limb_shapes, pose_point
from stereotalker.avatar.fitted import Wish, add_avatar, fit_key, fit_portrait, with_background
from stereotalker.avatar.landmarks import POSE, SIDES, KeyPointFile, Landmarks
from stereotalker.avatar.library import RECORD, Library, check_consent, read_avatar
from stereotalker.avatar.portray import portray
from stereotalker.avatar.segment import outline
from stereotalker.body import camera
from stereotalker.body.layout import JOINT, REGION
from stereotalker.body.raster import rasterize
from stereotalker.errors import ClipError, UserError
from stereotalker.manifest import CameraMove, Consent
from stereotalker.people.acting import STYLES, resting_pose
from stereotalker.records import Avatar, Motion, load
from stereotalker.store import Store
from tests.conftest import REAL_DATA

SIZE = (512, 448)  # higher than wide


@pytest.fixture(scope="module")
def known():
    return read_calibration()


@pytest.fixture(scope="module")
def truth(body):
    """Somebody of known shape and pose before a known camera, and what a perfect detector would say of the picture."""
    rng = np.random.default_rng(3)
    betas = rng.normal(0, 0.4, body.betas).astype(np.float32)
    poses, expression = resting_pose(STYLES[2]).poses[0].copy(), np.zeros(52, np.float32)
    poses[JOINT["head"]] = [0.05, 0.15, -0.04]
    intrinsics = np.array([[1024, 0, SIZE[1] / 2], [0, 1024, SIZE[0] / 2], [0, 0, 1]], np.float32)
    turn = Rotation.from_euler("xyz", [-1, -6, 2], degrees=True).as_matrix() @ np.diag([1, -1, -1])
    extrinsics = np.eye(4, dtype=np.float32)
    extrinsics[:3, :3], extrinsics[:3, 3] = turn, -turn @ [-0.17, 0.78, 1.9]
    return betas, poses, expression, intrinsics, extrinsics


@pytest.fixture(scope="module")
def marks(truth, body, known) -> Landmarks:
    betas, poses, expression, K, E = truth
    given = [torch.from_numpy(a) for a in (poses[None], expression[None], betas, np.zeros((1, 3), np.float32))]
    skinned = body.skinning(*given)
    project = lambda points: camera.project(np.asarray(points, np.float32), K, E)  # noqa: E731
    face = known.face_points(skinned.vertices[0].numpy(), body.faces)
    pose, world, visible = np.zeros((33, 2), np.float32), np.zeros((33, 3), np.float32), np.zeros(33, np.float32)
    flip = np.diag([1, -1, -1]) @ E[:3, :3]
    for name in known.pose_points:
        for side in SIDES:
            place, row = pose_point(skinned, name, side, known).numpy(), POSE[f"{side}_{name}"]
            pose[row], world[row], visible[row] = project(place)[0, :2], (place @ flip.T)[0], 1.0
    hands = {side: hand_points(skinned, side, known)[0].numpy() for side in SIDES}
    covered = rasterize(project(skinned.vertices[0].numpy()), body.faces, SIZE).face >= 0
    return Landmarks(
        size=SIZE, faces=1, face=project(face)[:, :2], actions=expression, head=(flip @ skinned.joint_turn[0, JOINT["head"]].numpy() @ np.linalg.inv(known.head_offset)).astype(np.float32),
        people=1, pose=pose, visible=visible, pose_world=world, hands={s: project(p)[:, :2] for s, p in hands.items()},
        hands_world={s: (p @ flip.T).astype(np.float32) for s, p in hands.items()}, person=covered.astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def picture(marks) -> np.ndarray:
    """A grey wall and somebody in a patterned suit: enough for masks and colours."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    wall = np.stack([120 + 0.1 * rows, 130 + 0 * rows, 150 - 0.1 * columns], -1)
    suit = np.stack([200 + 20 * np.sin(rows / 9), 90 + 10 * np.sin(columns / 7), 70 + 0 * rows], -1)
    return np.clip(np.where(marks.person[..., None] > 0.5, suit, wall) + rng.normal(0, 2, (*SIZE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def made(marks, picture, body, known):
    return portray(picture, "somebody", lambda picture: marks, body, known, 0, "portrait")


# ---- the fit ---------------------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_the_detector_saw(marks, truth, body, known):
    found = fit(marks, body, known)
    assert found.face_error < 0.004 and found.wrist_error < 0.02 and found.arm_error < 0.03
    assert np.array_equal(found.intrinsics, truth[3])

    def seen(poses, betas, E, surface=None):
        places, turns = body.posed_joints(Motion(poses[None], truth[2][None], np.zeros((1, 3), np.float32), 25.0), betas, surface)
        at = places[0] @ E[:3, :3].T + E[:3, 3]
        return at[:, :2] / at[:, 2:] * truth[3][0, 0], E[:3, :3] @ turns[0, JOINT["head"]]

    ours, head = seen(found.poses, found.betas, found.extrinsics, found.surface)
    theirs, true_head = seen(truth[1], truth[0], truth[4])
    rows = [JOINT[name] for name in ("neck", "head", "left_shoulder", "right_elbow", "left_wrist", "right_wrist")]
    assert np.linalg.norm((ours - theirs)[rows], axis=1).max() < 0.05 * marks.shoulder_width
    assert np.degrees(Rotation.from_matrix(head @ true_head.T).magnitude()) < 3


def test_the_fit_does_without_hands_and_without_a_body(marks, body, known):
    alone = replace(marks, pose=None, visible=None, pose_world=None, hands={}, hands_world={}, people=0)
    found = fit(alone, body, known)
    assert found.face_error < 0.005 and found.wrist_error is None and found.arm_error is None and found.seen == {"left": False, "right": False}
    wrists, _ = body.posed_joints(Motion(found.poses[None], found.expression[None], np.zeros((1, 3), np.float32), 25.0), found.betas)
    assert (wrists[0, [JOINT["left_wrist"], JOINT["right_wrist"]], 1] < 0.45).all()  # arms that nobody saw hang


def test_limbs_grow_at_their_own_joints_only(body):
    joints = body.joints(np.zeros(body.betas, np.float32))
    for grown, (start, end) in zip(limb_shapes(body), (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "middle1")), strict=True):
        moved = body.posed_joints(Motion(np.zeros((1, 55, 3), np.float32), np.zeros((1, 52), np.float32), np.zeros((1, 3), np.float32), 25.0), np.zeros(body.betas, np.float32), grown)[0][0]
        length = lambda where, side: np.linalg.norm(where[JOINT[f"{side}_{end}"]] - where[JOINT[f"{side}_{start}"]])  # noqa: B023, E731
        for side in SIDES:
            assert length(moved, side) == pytest.approx(2 * length(joints, side), rel=0.03)
        assert np.allclose(moved[JOINT["head"]], joints[JOINT["head"]], atol=1e-5)


def test_the_calibration_is_of_this_body(body, known):
    on_face = known.face_points(body.template, body.faces)
    assert np.allclose(on_face, known.face_template, atol=1e-5)
    assert np.abs(known.face_template[[33, 61]] * [-1, 1, 1] - known.face_template[[263, 291]]).max() < 0.003  # corners of eyes and mouth
    assert (np.abs(known.face_template[468:, 2] - 0.15) < 0.03).all()  # the irises
    assert len(HAND_JOINTS) == 21 and known.face_spread[:468].mean() < 0.05


# ---- from picture to avatar ----------------------------------------------------------------------------------------------


def test_the_avatar_covers_the_person_and_warps_to_its_own_portrait(made, marks, picture, body):
    assert made.residuals.silhouette_iou > 0.97
    assert made.residuals.face < 0.003 and made.avatar.arms
    assert warp_psnr(made.avatar, picture, body) > 30
    view = camera.around(made.avatar, CameraMove(), 2, 25.0, SIZE)
    assert np.allclose(view.extrinsics[0], made.avatar.extrinsics, atol=1e-4) and np.allclose(view.intrinsics[0], made.avatar.intrinsics, atol=1e-2)


def test_regions_are_where_the_body_is(made, marks):
    regions = made.avatar.regions
    x, y = marks.face[[1, 13]].astype(int).T  # nose and upper lip
    assert regions[y[0], x[0]] == REGION["face"] and regions[y[1], x[1]] == REGION["mouth"]
    for side in SIDES:
        x, y = marks.hands[side][9].astype(int)
        if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
            assert regions[y, x] == REGION["hands"]
    assert (regions[:20, :20] == REGION["background"]).all()


def test_cameras_turn_around_the_chest_at_any_shape_of_frame(made):
    for size in ((360, 640), (512, 512), (640, 360)):
        view = camera.around(made.avatar, CameraMove(azimuth=20, elevation=5), 1, 25.0, size)
        at = camera.project(made.avatar.target[None], view.intrinsics[0], view.extrinsics[0])[0]
        assert np.allclose(at[:2], [size[1] / 2, size[0] / 2], atol=0.5)


def test_the_background_knows_nothing_of_the_person(picture, marks):
    mask = marks.person > 0.5
    filled = fill_background(picture, mask)
    assert np.abs(filled[mask].astype(int).mean(0) - picture[~mask].astype(int).mean(0)).max() < 25
    assert np.array_equal(filled[:5, :5], picture[:5, :5])
    clean = without_fringe(picture, mask)
    assert np.array_equal(clean[:5, :5], picture[:5, :5]) and clean.shape == picture.shape


def test_outlines_snap_to_the_picture(picture, marks):
    import cv2

    coarse = cv2.GaussianBlur(marks.person, (0, 0), 4.0)
    found = outline(picture, coarse)
    true = marks.person > 0.5
    assert (found & true).sum() / (found | true).sum() > 0.97


def test_a_card_shows_everything(made, body):
    card = draw_card(made.avatar, body)
    assert card.shape[1] == 4 * round(320 * SIZE[1] / SIZE[0]) and card.shape[0] == 640 and card.std() > 20


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"face": None, "person": np.zeros(SIZE, np.float32)}, "no person was found"),
        ({"face": None}, "a person, but no face was found"),
        ({"faces": 2}, "2 faces were found; expected one person"),
        ({"people": 2}, "2 people were found"),
        ({"person": np.zeros(SIZE, np.float32)}, "is it drawn, or on a poster"),
        ({"head": Rotation.from_euler("y", 60, degrees=True).as_matrix().astype(np.float32)}, "turned 60 degrees away"),
    ],
)
def test_what_cannot_be_done_well_is_refused_with_the_reason(marks, picture, body, known, change, complaint):
    with pytest.raises(ClipError, match=complaint):
        portray(picture, "x", lambda picture: replace(marks, **change), body, known, 0, "portrait")


def test_small_faces_cut_faces_and_impossible_faces(marks, picture, body, known):
    go = lambda marks, picture=picture: portray(picture, "x", lambda picture: marks, body, known, 0, "portrait")  # noqa: E731
    with pytest.raises(ClipError, match="50 x 50 px; expected at least 256"):
        go(marks, picture[:50, :50])
    middle = marks.face.mean(0)
    with pytest.raises(ClipError, match="px high in a picture"):
        go(replace(marks, face=middle + 0.3 * (marks.face - middle)))
    with pytest.raises(ClipError, match="cut off"):
        go(replace(marks, face=marks.face - [0, marks.face[:, 1].mean()]))
    upset = marks.face + np.random.default_rng(0).normal(0, 8, marks.face.shape)
    with pytest.raises(ClipError, match="does not fit a human head"):
        go(replace(marks, face=upset.astype(np.float32)))
    bulky = marks.person.copy()
    bulky[300:, :] = 1
    with pytest.raises(ClipError, match="something bulky"):
        go(replace(marks, person=bulky))


# ---- key points from a file, library, consent ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fits(tmp_path_factory) -> Store:
    """A store that the tests share: the same files are fitted once."""
    return Store(tmp_path_factory.mktemp("fits"))


@pytest.fixture
def files(marks, picture, tmp_path) -> tuple[Path, Path]:
    """A portrait and its key points as files."""
    Image.fromarray(picture).save(tmp_path / "me.png")
    Image.fromarray((marks.person * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    points = {"face": marks.face.tolist(), "person": "mask.png", "pose": marks.pose.tolist(), "visible": marks.visible.tolist(), "hands": {s: p.tolist() for s, p in marks.hands.items()}}
    (tmp_path / "me.json").write_text(json.dumps(points))
    return tmp_path / "me.png", tmp_path / "me.json"


def test_an_avatar_is_added_once_shown_and_removed(files, tiny_models, home):
    library, store = Library(home.avatars), Store(home.store)
    consent = Consent(holder="Ada", scope="training films", expires=date(2030, 1, 1))
    card, new = add_avatar(library, "ada", files[0], tiny_models, store, Wish(consent, "calm", files[1]))
    assert new and card.consent == consent and card.residuals["face"] < 0.003 and library.own_names() == ["ada"] and "ava" in library.names()
    assert (home.avatars / "ada" / "card.png").is_file() and library.card("ada") == card
    avatar = read_avatar(library.find("ada"))
    assert avatar.name == "ada" and STYLES[avatar.style].name == "calm" and avatar.origin == "portrait"
    again, new = add_avatar(library, "ada", files[0], tiny_models, store, Wish(None, "calm", files[1]))
    assert not new and again == card and len(list((home.store / "portrait").iterdir())) == 1
    moved, new = add_avatar(library, "ada", files[0], tiny_models, store, Wish(Consent(holder="Ada", scope="all"), "calm", files[1]))
    assert new and moved.consent.scope == "all" and moved.key == card.key
    library.remove("ada")
    assert library.own_names() == []
    for name, complaint in (("ada", "unknown"), ("ava", "shipped and stays")):
        with pytest.raises(UserError, match=complaint):
            library.remove(name)


def test_names_are_checked_and_kept(files, tiny_models, home, fits, picture, tmp_path):
    library, store = Library(home.avatars), fits
    for name in ("", "a/b", ".x", "me.png", "-x", "two words"):
        with pytest.raises(UserError, match="expected letters, digits"):
            add_avatar(library, name, files[0], tiny_models, store, Wish(None, "calm", files[1]))
    with pytest.raises(UserError, match="expected one of presenter"):
        add_avatar(library, "ada", files[0], tiny_models, store, Wish(None, "wild", files[1]))
    with pytest.raises(UserError, match="shipped one"):
        add_avatar(library, "ava", files[0], tiny_models, store, Wish(None, "calm", files[1]))
    add_avatar(library, "ada", files[0], tiny_models, store, Wish(None, "calm", files[1]))
    Image.fromarray(np.flip(picture, 2)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match="there already, from me.png; give --replace"):
        add_avatar(library, "ada", tmp_path / "other.png", tiny_models, store, Wish(None, "calm", files[1]))
    add_avatar(library, "ada", files[0], tiny_models, store, Wish(Consent(holder="Ada", scope="all"), "calm", files[1]))
    card, new = add_avatar(library, "ada", tmp_path / "other.png", tiny_models, store, Wish(None, "calm", files[1], replace=True))
    assert new and card.picture == "other.png" and card.consent is None  # consent to one face is none to another
    assert np.abs(load(Avatar, library.find("ada")).portrait[:9, :9].astype(int) - np.flip(picture, 2)[:9, :9]).max() == 0
    assert [path.name for path in home.avatars.iterdir()] == ["ada"]
    with pytest.raises(ClipError, match="ended on 2020-01-01"):
        add_avatar(library, "eva", files[0], tiny_models, store, Wish(Consent(holder="E", scope="x", expires=date(2020, 1, 1)), "calm", files[1]))
    for path, complaint in ((tmp_path, "Is a directory"), (tmp_path / "none.png", "No such file")):
        with pytest.raises(UserError, match=complaint):
            add_avatar(library, "eva", path, tiny_models, store, Wish(None, "calm", files[1]))


def test_a_key_point_file_with_another_mask_is_another_fit(files, tiny_models):
    before = fit_key(files[0], tiny_models, files[1])
    mask = files[0].with_name("mask.png")
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    assert fit_key(files[0], tiny_models, files[1]) != before


def test_half_an_avatar_is_none(files, tiny_models, home, fits):
    library = Library(home.avatars)
    add_avatar(library, "ada", files[0], tiny_models, fits, Wish(None, "calm", files[1]))
    (home.avatars / "ada" / "card.json").unlink()
    with pytest.raises(ClipError, match="unknown"):
        library.card("ada")


def test_the_command_line(files, home, monkeypatch):
    from typer.testing import CliRunner

    from stereotalker.cli import app

    monkeypatch.setenv("STEREOTALKER_HOME", str(home.root))
    say = lambda *words: CliRunner().invoke(app, ["avatar", *map(str, words)])  # noqa: E731
    added = say("add", files[0], "--name", "ada", "--landmarks", files[1], "--consent-holder", "Ada", "--consent-scope", "tests", "--consent-expires", "2040-01-01")
    assert added.exit_code == 0 and "ada added" in added.output and "Ada, for tests, until 2040-01-01" in added.output
    assert say("list").output.splitlines()[0].startswith("ada ") and "shipped, synthetic" in say("list").output
    assert "of the face's height" in say("show", "ada").output and "synthetic" in say("show", "ava").output
    assert say("remove", "ada").exit_code == 0 and "ada" not in say("list").output
    half = say("add", files[0], "--name", "ada", "--landmarks", files[1], "--consent-holder", "Ada")
    assert isinstance(half.exception, UserError) and "consent scope" in str(half.exception)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("not json", "expected a JSON file"),
        ({"person": "mask.png"}, "expected a mapping with face and person"),
        ({"face": [[1, 2]], "person": "mask.png"}, r"face: expected numbers \[478, 2\], got \[1, 2\]"),
        ({"face": "x", "person": "mask.png"}, "face: expected numbers"),
        ({"face": [[float("nan")] * 2] * 478, "person": "mask.png"}, "face: expected numbers"),
        ({"face": [[0.0] * 2] * 478, "person": "none.png"}, "none.png: picture not found"),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "eyes": 2}, "of the rest some of"),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "pose": [[0.0] * 2] * 33}, "pose and visible go together"),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": {"left": [[0.0] * 2] * 21}}, "hands and pose_world need them"),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": {"up": [[0.0] * 2] * 21}}, "expected a mapping of left, right or both"),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": {"left": None}}, "expected a mapping of left, right or both"),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": [1]}, "expected a mapping of left, right or both"),
    ],
)
def test_key_point_files_are_checked(files, picture, change, complaint):
    files[1].write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(UserError, match=complaint):
        KeyPointFile(files[1], files[0])(picture)


def test_key_points_follow_a_portrait_that_is_scaled_down(files, marks, picture):
    half = KeyPointFile(files[1], files[0])(picture[::2, ::2])
    assert np.allclose(half.face, marks.face / 2, atol=1e-3) and half.person.shape == (SIZE[0] // 2, SIZE[1] // 2)


@pytest.mark.parametrize(
    ("consent", "synthetic", "required", "complaint"),
    [
        (None, True, True, None), (None, False, False, None), (Consent(holder="A", scope="b"), False, True, None),
        (Consent(holder="A", scope="b", expires=date(2026, 1, 1)), False, True, None),
        (None, False, True, "no consent"), (Consent(holder="A", scope="b", expires=date(2025, 12, 31)), False, False, "ended on 2025-12-31"),
    ],
)  # fmt: skip
def test_consent(consent, synthetic, required, complaint):
    check = lambda: check_consent("ada", consent, synthetic, required, date(2026, 1, 1))  # noqa: E731
    if complaint is None:
        check()
    else:
        with pytest.raises(ClipError, match=complaint):
            check()


# ---- in a batch ------------------------------------------------------------------------------------------------------------


def test_backgrounds(made, tmp_path):
    made_file = tmp_path / RECORD
    from stereotalker.records import save

    save(made.avatar, made_file)
    wide = np.zeros((20, 90, 3), np.uint8)
    wide[:, 40:50] = (0, 200, 0)
    Image.fromarray(wide).save(tmp_path / "wall.png")
    assert (with_background(made_file, "#102030").background == (16, 32, 48)).all()
    assert np.array_equal(with_background(made_file, "portrait").background, made.avatar.background)
    blurred = with_background(made_file, "blur").background.astype(float)
    assert np.abs(np.diff(blurred, axis=1)).mean() < np.abs(np.diff(made.avatar.background.astype(float), axis=1)).mean()
    filled = with_background(made_file, str(tmp_path / "wall.png")).background
    assert filled.shape == (*SIZE, 3) and (filled[250, SIZE[1] // 2] == (0, 200, 0)).all() and (filled[250, 5] == 0).all()
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(ClipError, match="not a picture"):
        with_background(made_file, str(tmp_path / "bad.png"))


@pytest.fixture
def batch(files, tiny_models, home, fits, run, tmp_path):
    """An own avatar, and a batch of clips that use it."""
    add_avatar(Library(home.avatars), "ada", files[0], tiny_models, fits, Wish(Consent(holder="Ada", scope="tests"), "calm", files[1]))

    def go(*clips, **changes):
        defaults = {"width": 64, "height": 96, "script": "Good morning.", "avatar": "ada"}
        (tmp_path / "night.yaml").write_text(yaml.safe_dump({"defaults": defaults, "clips": [{"id": f"c{k}", **clip} for k, clip in enumerate(clips)]}))
        return run(tmp_path / "night.yaml", **changes)

    return go


def test_an_own_avatar_speaks_before_any_background(batch, tmp_path):
    from stereotalker.provenance import verify
    from stereotalker.video import read_frames

    done = batch({"background": "#00ff00"}, {"background": "transparent"}, require_consent=True)
    assert [result.state for result in done.results] == ["done", "done"], [result.error for result in done.results]
    green, clear = (tmp_path / "out" / result.video for result in done.results)
    assert (np.abs(read_frames(green)[0, 2, 2].astype(int) - [0, 255, 0]) < 40).all()
    assert clear.suffix == ".mov" and verify(clear).good and verify(clear).claims["consent"]["holder"] == "Ada"
    import av

    with av.open(str(clear)) as film:
        frame = next(film.decode(video=0))
        assert film.streams.video[0].codec_context.name == "prores" and frame.format.name.startswith("yuva444")
        alpha = frame.to_ndarray(format="rgba")[..., 3]
    assert alpha[2, 2] < 128 < alpha[60:, 32].max()


def test_a_batch_refuses_faces_without_leave(batch, files, monkeypatch):
    monkeypatch.setattr("stereotalker.batch.preflight.check_usable", lambda folder: None)  # no model files are needed to see it refused
    done = batch({"avatar": str(files[0])}, {}, {"avatar": str(files[0]), "consent": {"holder": "A", "scope": "b", "expires": "2020-01-01"}}, require_consent=True)
    errors = [result.error for result in done.results]
    assert "no consent" in errors[0] and "give the clip `consent" in errors[0] and not errors[1] and "ended on 2020-01-01" in errors[2]


def test_arms_that_a_portrait_does_not_show_stay_where_they_are(tiny_models, home, speech, made, tmp_path):
    from stereotalker.clip import ClipMaker, Ledger
    from stereotalker.manifest import single_clip

    maker, hidden = ClipMaker(tiny_models, Store(home.store)), replace(made.avatar, arms=False)
    for arms, still in (("auto", True), ("invent", False)):
        clip = single_clip("x", {"script": "Good morning.", "arms": arms})
        key, spoken = maker.speech(clip, Ledger())
        folder = home.store / "motion" / maker.motion(clip, hidden, key, spoken, Ledger())[0]
        poses = load(Motion, folder / "motion.safetensors").poses
        held = np.allclose(poses[:, [JOINT["left_elbow"], JOINT["right_index2"]]], hidden.poses[[JOINT["left_elbow"], JOINT["right_index2"]]])
        assert held == still


# ---- MediaPipe ---------------------------------------------------------------------------------------------------------------


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
    found = portray(portrait, "real", detector, body, known, 0, "portrait")
    r = found.residuals
    assert r.face < 0.003 and r.face_fit < 0.01 and r.silhouette_iou > 0.97 and r.wrist < 0.04
    assert warp_psnr(found.avatar, portrait, body) > 32


def test_head_and_shoulders_in_every_shape_of_frame(detector, portrait, body, known):
    shoulders = portrait[:520, 250:760]
    found = portray(shoulders, "crop", detector, body, known, 0, "portrait")
    assert not found.avatar.arms and "no hand" in found.notes[0] and found.residuals.face < 0.003 and found.residuals.silhouette_iou > 0.93
    landscape = np.pad(portrait, ((0, 0), (300, 300), (0, 0)), mode="edge")[::2, ::2]
    assert portray(landscape, "wide", detector, body, known, 0, "portrait").residuals.face < 0.003


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
        portray(np.ascontiguousarray(picture), "x", detector, body, known, 0, "portrait")


def test_the_astronaut_is_fitted_or_refused_for_what_she_wears(detector, body, known):
    path = REAL_DATA / "portraits" / "astronaut.png"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    with pytest.raises(ClipError, match="bulky"):
        portray(np.asarray(Image.open(path).convert("RGB")), "astronaut", detector, body, known, 0, "portrait")


def test_one_fit_for_a_portrait_named_in_a_batch(detector, portrait, tiny_models, home, tmp_path, monkeypatch):
    Image.fromarray(portrait).save(tmp_path / "me.png")
    shutil.copytree(REAL_DATA / "detectors", home.detectors)
    monkeypatch.setenv("STEREOTALKER_HOME", str(home.root))
    store = Store(home.store)
    key, folder = fit_portrait(tmp_path / "me.png", tiny_models, store)
    assert {path.name for path in folder.iterdir()} >= {RECORD, "card.png", "fit.json"}
    monkeypatch.setattr(fitted, "portray", lambda *_: pytest.fail("fitted twice"))
    assert fit_portrait(tmp_path / "me.png", tiny_models, store) == (key, folder)
