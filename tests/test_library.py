"""Avatars by name: key points from a file, cards, consent, and what a batch makes of them."""

import json
import shutil
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import yaml
from PIL import Image

from stereotalker.acting.reference_acting import STYLES
from stereotalker.avatar.background_plate import Background, with_background
from stereotalker.avatar.consent import Consent, check_consent
from stereotalker.avatar.landmarks import KeypointFile
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.errors import ClipError, UserError
from stereotalker.production import avatars
from stereotalker.production.avatars import AvatarRequest, add_avatar, fit_key
from stereotalker.production.manifest import single_clip
from stereotalker.records import Avatar, Motion, load
from stereotalker.smplx_layout import JOINT
from stereotalker.store.local import Store
from tests.conftest import SIZE

pytestmark = pytest.mark.integration


@pytest.fixture
def empty_home(home):
    """A home without avatars of its own."""
    shutil.rmtree(home.avatars)
    return home


def test_an_avatar_is_added_once_shown_and_removed(portrait_files, tiny_models, empty_home):
    home = empty_home
    library, store = Library(home.avatars), Store(home.store)
    consent = Consent(holder="Ada", scope="training films", expires=date(2030, 1, 1))
    card, new = add_avatar(
        library, "ada", portrait_files[0], tiny_models, store, AvatarRequest(consent, "calm", portrait_files[1])
    )
    assert (
        new
        and card.consent == consent
        and card.residuals["face"] < 0.003
        and library.own_names() == ["ada"]
        and "ava" in library.names()
    )
    assert (home.avatars / "ada" / "card.png").is_file() and library.card("ada") == card
    avatar = read_avatar(library.find("ada"))
    assert avatar.name == "ada" and STYLES[avatar.style].name == "calm" and avatar.origin == "portrait"
    again, new = add_avatar(
        library, "ada", portrait_files[0], tiny_models, store, AvatarRequest(None, "calm", portrait_files[1])
    )
    assert not new and again == card and len(list((home.store / "portrait").iterdir())) == 1
    moved, new = add_avatar(
        library,
        "ada",
        portrait_files[0],
        tiny_models,
        store,
        AvatarRequest(Consent(holder="Ada", scope="all"), "calm", portrait_files[1]),
    )
    assert new and moved.consent.scope == "all" and moved.key == card.key
    library.remove("ada")
    assert library.own_names() == []
    for name, complaint in (("ada", "unknown"), ("ava", "shipped and stays")):
        with pytest.raises(UserError, match=complaint):
            library.remove(name)


def test_names_are_checked_and_kept(portrait_files, tiny_models, empty_home, fit_store, picture, tmp_path):
    home = empty_home
    library, store = Library(home.avatars), fit_store
    for name in ("", "a/b", ".x", "me.png", "-x", "two words"):
        with pytest.raises(UserError, match="expected letters, digits"):
            add_avatar(
                library, name, portrait_files[0], tiny_models, store, AvatarRequest(None, "calm", portrait_files[1])
            )
    with pytest.raises(UserError, match="expected one of presenter"):
        add_avatar(
            library, "ada", portrait_files[0], tiny_models, store, AvatarRequest(None, "wild", portrait_files[1])
        )
    with pytest.raises(UserError, match="shipped one"):
        add_avatar(
            library, "ava", portrait_files[0], tiny_models, store, AvatarRequest(None, "calm", portrait_files[1])
        )
    add_avatar(library, "ada", portrait_files[0], tiny_models, store, AvatarRequest(None, "calm", portrait_files[1]))
    Image.fromarray(np.flip(picture, 2)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match="there already, from me.png; give --replace"):
        add_avatar(
            library, "ada", tmp_path / "other.png", tiny_models, store, AvatarRequest(None, "calm", portrait_files[1])
        )
    add_avatar(
        library,
        "ada",
        portrait_files[0],
        tiny_models,
        store,
        AvatarRequest(Consent(holder="Ada", scope="all"), "calm", portrait_files[1]),
    )
    card, new = add_avatar(
        library,
        "ada",
        tmp_path / "other.png",
        tiny_models,
        store,
        AvatarRequest(None, "calm", portrait_files[1], replace=True),
    )
    assert new and card.picture == "other.png" and card.consent is None  # consent to one face is none to another
    assert (
        np.abs(load(Avatar, library.find("ada")).portrait[:9, :9].astype(int) - np.flip(picture, 2)[:9, :9]).max() == 0
    )
    assert [path.name for path in home.avatars.iterdir()] == ["ada"]
    with pytest.raises(ClipError, match="ended on 2020-01-01"):
        add_avatar(
            library,
            "eva",
            portrait_files[0],
            tiny_models,
            store,
            AvatarRequest(Consent(holder="E", scope="x", expires=date(2020, 1, 1)), "calm", portrait_files[1]),
        )
    for path, complaint in ((tmp_path, "Is a directory"), (tmp_path / "none.png", "No such file")):
        with pytest.raises(UserError, match=complaint):
            add_avatar(library, "eva", path, tiny_models, store, AvatarRequest(None, "calm", portrait_files[1]))


def test_a_key_point_file_with_another_mask_is_another_fit(portrait_files, tiny_models):
    before = fit_key(portrait_files[0], portrait_files[0].read_bytes(), tiny_models, portrait_files[1])
    mask = portrait_files[0].with_name("mask.png")
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    assert fit_key(portrait_files[0], portrait_files[0].read_bytes(), tiny_models, portrait_files[1]) != before


def test_half_an_avatar_is_none(portrait_files, tiny_models, home, fit_store):
    library = Library(home.avatars)
    add_avatar(
        library, "ada", portrait_files[0], tiny_models, fit_store, AvatarRequest(None, "calm", portrait_files[1])
    )
    (home.avatars / "ada" / "card.json").unlink()
    with pytest.raises(ClipError, match="unknown"):
        library.card("ada")


def test_the_command_line(portrait_files, home, monkeypatch):
    from typer.testing import CliRunner

    from stereotalker.cli.main import app

    monkeypatch.setenv("STEREOTALKER_HOME", str(home.root))

    def say(*words):
        return CliRunner().invoke(app, ["avatar", *map(str, words)])

    added = say(
        "add",
        portrait_files[0],
        "--name",
        "ada",
        "--landmarks",
        portrait_files[1],
        "--consent-holder",
        "Ada",
        "--consent-scope",
        "tests",
        "--consent-expires",
        "2040-01-01",
    )
    assert added.exit_code == 0 and "ada added" in added.output and "Ada, for tests, until 2040-01-01" in added.output
    assert say("list").output.splitlines()[0].startswith("ada ") and "shipped, synthetic" in say("list").output
    assert "of the face's height" in say("show", "ada").output and "synthetic" in say("show", "ava").output
    assert say("remove", "ada").exit_code == 0 and "ada" not in say("list").output
    half = say("add", portrait_files[0], "--name", "ada", "--landmarks", portrait_files[1], "--consent-holder", "Ada")
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
        (
            {"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": {"left": [[0.0] * 2] * 21}},
            "hands and pose_world need them",
        ),
        (
            {"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": {"up": [[0.0] * 2] * 21}},
            "expected a mapping of left, right or both",
        ),
        (
            {"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": {"left": None}},
            "expected a mapping of left, right or both",
        ),
        ({"face": [[0.0] * 2] * 478, "person": "mask.png", "hands": [1]}, "expected a mapping of left, right or both"),
    ],
)
def test_key_point_files_are_checked(portrait_files, picture, change, complaint):
    portrait_files[1].write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(UserError, match=complaint):
        KeypointFile(portrait_files[1], portrait_files[0])(picture)


def test_key_points_follow_a_portrait_that_is_scaled_down(portrait_files, landmarks, picture):
    half = KeypointFile(portrait_files[1], portrait_files[0])(picture[::2, ::2])
    assert np.allclose(half.face, landmarks.face / 2, atol=1e-3) and half.person.shape == (SIZE[0] // 2, SIZE[1] // 2)


@pytest.mark.parametrize(
    ("consent", "required", "complaint"),
    [
        (None, False, None),
        (Consent(holder="A", scope="b"), True, None),
        (Consent(holder="A", scope="b", expires=date(2026, 1, 1)), True, None),
        (None, True, "no consent"),
        (Consent(holder="A", scope="b", expires=date(2025, 12, 31)), False, "ended on 2025-12-31"),
    ],
)
def test_consent(consent, required, complaint):
    def check():
        return check_consent("ada", consent, required, date(2026, 1, 1))

    if complaint is None:
        check()
    else:
        with pytest.raises(ClipError, match=complaint):
            check()


def test_no_face_without_consent_is_fitted(portrait_files, tiny_models, fit_store, monkeypatch):
    from stereotalker.production.clip_stages import ClipMaker

    monkeypatch.setattr(avatars, "fit_portrait", lambda *_: pytest.fail("fitted before consent was asked for"))
    maker = ClipMaker(
        replace(tiny_models, params=tiny_models.params.with_produce({"require_consent": True})), fit_store
    )
    with pytest.raises(ClipError, match="no consent"):
        maker.avatar(single_clip("x", {"script": "hi", "avatar": str(portrait_files[0])}))
    assert maker.avatar(single_clip("x", {"script": "hi", "avatar": "ava"}))[1].origin == "synthetic"  # nobody's face


# ---- in a batch


def test_backgrounds(fitted, tmp_path):
    wide = np.zeros((20, 90, 3), np.uint8)
    wide[:, 40:50] = (0, 200, 0)
    Image.fromarray(wide).save(tmp_path / "wall.png")

    def plate(name):
        return with_background(fitted.avatar, Background.read(str(name))).background

    assert (plate("#102030") == (16, 32, 48)).all()
    assert np.array_equal(plate("portrait"), fitted.avatar.background)
    changes = [np.abs(np.diff(p.astype(float), axis=1)).mean() for p in (plate("blur"), fitted.avatar.background)]
    assert changes[0] < changes[1]
    filled = plate(tmp_path / "wall.png")
    assert (
        filled.shape == (*SIZE, 3) and (filled[250, SIZE[1] // 2] == (0, 200, 0)).all() and (filled[250, 5] == 0).all()
    )
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(ClipError, match="not a picture"):
        plate(tmp_path / "bad.png")


def test_a_background_that_is_replaced_after_it_was_read_changes_nothing(fitted, tmp_path):
    """The digest in the key is that of the picture that is used."""
    Image.new("RGB", (8, 8), (0, 200, 0)).save(tmp_path / "wall.png")
    background = Background.read(str(tmp_path / "wall.png"))
    before = background.digest
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "wall.png")
    assert background.digest == before != Background.read(str(tmp_path / "wall.png")).digest
    assert (with_background(fitted.avatar, background).background == (0, 200, 0)).all()


@pytest.fixture
def batch(portrait_files, tiny_models, home, fit_store, run_batch, tmp_path):
    """An own avatar, and a batch of clips that use it."""
    add_avatar(
        Library(home.avatars),
        "ada",
        portrait_files[0],
        tiny_models,
        fit_store,
        AvatarRequest(Consent(holder="Ada", scope="tests"), "calm", portrait_files[1]),
    )

    def go(*clips, **changes):
        defaults = {"width": 64, "height": 96, "script": "Good morning.", "avatar": "ada"}
        (tmp_path / "night.yaml").write_text(
            yaml.safe_dump({"defaults": defaults, "clips": [{"id": f"c{k}", **clip} for k, clip in enumerate(clips)]})
        )
        return run_batch(tmp_path / "night.yaml", **changes)

    return go


def test_an_own_avatar_speaks_before_any_background(batch, tmp_path):
    from stereotalker.media.content_credentials import verify
    from stereotalker.media.video_files import read_frames

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


def test_a_batch_refuses_faces_without_consent(batch, portrait_files, monkeypatch):
    monkeypatch.setattr(
        "stereotalker.production.preflight.check_usable", lambda folder: None
    )  # no model files are needed to see it refused
    done = batch(
        {"avatar": str(portrait_files[0])},
        {},
        {"avatar": str(portrait_files[0]), "consent": {"holder": "A", "scope": "b", "expires": "2020-01-01"}},
        require_consent=True,
    )
    errors = [result.error for result in done.results]
    assert (
        "no consent" in errors[0]
        and "give the clip `consent" in errors[0]
        and not errors[1]
        and "ended on 2020-01-01" in errors[2]
    )


def test_arms_that_a_portrait_does_not_show_hardly_move(tiny_models, home, speech, fitted, tmp_path):
    from stereotalker.production.clip_stages import ClipMaker, StageTimings

    maker, hidden = ClipMaker(tiny_models, Store(home.store)), replace(fitted.avatar, arms=False)
    moved, elbow = {}, JOINT["left_elbow"]
    for arms in ("auto", "invent"):
        clip = single_clip("x", {"script": "Good morning.", "arms": arms})
        timings = StageTimings()
        [performer] = maker.performers(clip, [("hidden", hidden)], maker.sound(clip, timings), timings)
        folder = home.store / "motion" / performer.motion_key
        poses = load(Motion, folder / "motion.safetensors").poses
        moved[arms] = np.abs(poses[:, elbow] - hidden.poses[elbow]).max()
    assert moved["auto"] < 0.1 < moved["invent"]  # rad
