import numpy as np
import pytest

from stereotalker.audio.phonemes import VOWELS, phoneme_class
from stereotalker.body.layout import JOINT, REGION
from stereotalker.control.warp import background_plate, control, reference
from stereotalker.evaluation import lips_closed
from stereotalker.models import read_body
from stereotalker.people.acting import STYLES, act
from stereotalker.people.appearance import draw_look
from stereotalker.people.dataset import make_avatar, make_sample, wrong_fit
from stereotalker.records import Camera, Motion


@pytest.fixture(scope="module")
def body(tiny_params):
    return read_body(tiny_params.body)


@pytest.fixture(scope="module")
def avatar(body):
    return make_avatar(5, body, 96)


def still(avatar, frames=1):
    return Motion(np.repeat(avatar.poses[None], frames, 0), np.repeat(avatar.expression[None], frames, 0), np.zeros((frames, 3), np.float32), 25.0)


def own_view(avatar, frames=1):
    zeros = np.zeros(frames, np.float32)
    return Camera(np.repeat(avatar.intrinsics[None], frames, 0), np.repeat(avatar.extrinsics[None], frames, 0), zeros, zeros, avatar.regions.shape)


def test_everyone_is_clothed(body):
    for identity in range(6):
        regions = make_avatar(identity, body, 64).regions
        counts = np.bincount(regions.ravel(), minlength=8)
        assert counts[REGION["torso"]] > 0.05 * regions.size and counts[REGION["face"]] > 0.01 * regions.size
        assert draw_look(identity, 20, len(STYLES)).top.sleeve > 0.29  # at least short sleeves


def test_identities_differ_and_repeat(body):
    assert np.array_equal(make_avatar(3, body, 64).portrait, make_avatar(3, body, 64).portrait)
    assert not np.array_equal(make_avatar(3, body, 64).portrait, make_avatar(4, body, 64).portrait)


def test_lips_close_on_every_bilabial(speech, body):
    for style in STYLES:
        motion = act(speech, style, 1, 25.0)
        assert lips_closed(motion, speech, body) == 1.0
    aperture = body.lip_aperture(motion)
    vowel = next(p for p in speech.phonemes if phoneme_class(p.text) in VOWELS and p.end - p.start > 0.08)
    assert aperture[int((vowel.start + vowel.end) / 2 * 25)] > 5.0


@pytest.mark.parametrize("fps", [12.0, 23.976, 60.0])
def test_acting_has_the_length_of_its_speech(speech, fps):
    assert len(act(speech, STYLES[0], 0, fps).poses) == round(speech.seconds * fps)


def test_strength_scales_the_hands(speech):
    def spread(strength):
        return act(speech, STYLES[2], 3, 25.0, strength).poses[:, JOINT["right_elbow"]].std(0).sum()

    assert spread(0.0) < 0.5 * spread(1.0) < 0.9 * spread(2.0)


def test_warp_at_the_portraits_own_pose_is_the_portrait(avatar, body):
    maps = control(reference(avatar, body), body, still(avatar), own_view(avatar))
    person = avatar.regions > 0
    error = (maps.warp[0].astype(float) - avatar.portrait)[person & (maps.visibility[0] > 0)]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30
    assert (maps.labels[0] > 0).sum() == pytest.approx(person.sum(), rel=0.05)
    assert (maps.labels[0] == avatar.regions).mean() > 0.97


def test_control_hardly_depends_on_the_batch(avatar, body):
    ref = reference(avatar, body)
    whole = control(ref, body, still(avatar, 3), own_view(avatar, 3))
    single = control(ref, body, still(avatar, 1), own_view(avatar, 1))
    for name in ("warp", "normals", "labels"):  # to rounding; exact equality is the segments' business, whose batches are fixed
        assert (getattr(whole, name)[2] != getattr(single, name)[0]).mean() < 0.01
    with pytest.raises(ValueError, match="3 frames"):
        control(ref, body, still(avatar, 3), own_view(avatar, 1))


def test_background_stands_still_with_the_camera(avatar):
    plate = background_plate(avatar, avatar.intrinsics, avatar.extrinsics, avatar.regions.shape)
    assert np.abs(plate.astype(int) - avatar.background).max() <= 1
    wide = background_plate(avatar, avatar.intrinsics, avatar.extrinsics, (64, 160))
    assert wide.shape == (64, 160, 3)


def test_a_sample_is_a_function_of_its_seed(body, speech):
    one, two = (make_sample(1, body, [speech], 2, 64, 0, 20.0, 1.0) for _ in range(2))
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("image", "regions", "warp", "angles"))
    assert one.image.shape == (2, 64, 64, 3)


def test_a_wrong_fit_is_wrong_but_keeps_the_head(avatar, body):
    wrong = wrong_fit(avatar, body, 1)
    exact = body.pose(still(avatar), avatar.betas, avatar.surface)[0]
    moved = body.pose(still(wrong), wrong.betas, wrong.surface)[0]
    head = body.weights[:, JOINT["head"]] > 0.5
    assert np.abs(moved - exact).max() > 0.01
    assert np.linalg.norm((moved - exact)[head].mean(0)) < 0.02
