"""The photo of an avatar: frames larger than the portrait show the photo's own detail, and only where it is shown."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from avatar_helpers import still_motion
from PIL import Image
from pydantic import ValidationError

from stereotalker.avatar.background_plate import Background, with_background
from stereotalker.avatar.photo_detail import with_photo
from stereotalker.control import mipmaps
from stereotalker.control.reference_warp import control, reference
from stereotalker.errors import UserError
from stereotalker.geometry.camera import avatar_camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.params import AvatarParams
from stereotalker.production.avatars import fit_portrait_once
from stereotalker.records import Avatar, load, save

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]

CONTRAST = 20  # of the photo's checkerboard, which is gone when the photo is scaled down to the portrait


@pytest.fixture
def checkered(avatar):
    """The photo that an avatar's portrait was scaled down from: it has a checkerboard of single pixels all over it."""
    H, W = avatar.regions.shape
    large = cv2.resize(avatar.portrait, (2 * W, 2 * H), interpolation=cv2.INTER_NEAREST).astype(int)
    sign = np.where(np.indices((2 * H, 2 * W)).sum(0) % 2, CONTRAST, -CONTRAST)[..., None]
    return np.clip(np.clip(large, CONTRAST, 255 - CONTRAST) + sign, 0, 255).astype(np.uint8)


def checkerboard(picture):
    """How much of the checkerboard is in every pixel of a picture, in 0..1."""
    sign = np.where(np.indices(picture.shape[:2]).sum(0) % 2, 1, -1)[..., None]
    return cv2.blur((picture.astype(float) * sign).mean(-1), (7, 7)) / CONTRAST


def test_what_the_photo_shows_gets_its_detail_and_the_rest_does_not(avatar, checkered):
    detailed = with_photo(avatar, checkered)
    H, W = avatar.regions.shape
    other = np.array(avatar.portrait)
    left = other[:, : W // 2]
    left[:] = np.where(left < 128, left + 60, left - 60)
    is_own = np.ones((H, W), bool)
    is_own[: H // 2] = False
    result = checkerboard(mipmaps.at_photo_size(detailed, other, is_own))
    assert result.shape == (2 * H, 2 * W)
    assert np.median(result[H + 12 :, W + 12 :]) > 0.9
    assert np.abs(np.median(result[:, : W - 12])) < 0.05
    assert np.abs(np.median(result[: H - 12])) < 0.05
    assert mipmaps.at_photo_size(avatar, other, is_own) is other


def test_a_large_frame_shows_the_photo(avatar, body, checkered):
    H, W = avatar.regions.shape
    view = avatar_camera(avatar, CameraPath(), 1, 25.0, (2 * H, 2 * W))
    shown = {}
    for name, person in (("without", avatar), ("with", with_photo(avatar, checkered))):
        maps = control(reference(person, body), body, still_motion(avatar), view)
        is_person = cv2.erode((maps.visibility[0] == 255).astype(np.uint8), np.ones((9, 9))) > 0
        assert is_person.mean() > 0.1
        board = np.abs(checkerboard(maps.warp[0]))
        shown[name] = np.median(board[is_person])
        wall = cv2.erode((maps.labels[0] == 0).astype(np.uint8), np.ones((9, 9))) > 0
        shown[f"{name}, wall"] = np.median(board[wall])
    # The person's pixels do not lie on the photo's, because the fit moves them, so that a part of the contrast is lost.
    assert shown["with"] > 1.5 * shown["without"]
    assert shown["with, wall"] > 5 * shown["without, wall"]


@pytest.mark.parametrize("enlargement", [1.7, 2.0])
def test_levels_are_chosen_by_the_size_of_the_finest(avatar, enlargement):
    """Level k of a picture shows the person as coarsely as a camera whose frames are enlargement / 2^k as large."""
    H, W = avatar.regions.shape
    finest = np.zeros((1, round(H * enlargement), round(W * enlargement), 3), np.uint8)
    pyramid = tuple(level[None] for level in mipmaps.halved(finest[0]))
    for level in range(3):
        scale = enlargement / 2**level
        K = avatar.intrinsics * np.array([[scale], [scale], [1]], np.float32)
        pair = mipmaps.pair(avatar, pyramid, K, avatar.extrinsics)
        [fine] = [k for k, picture in enumerate(pyramid) if picture is pair.fine]
        assert fine + pair.blend == pytest.approx(level, abs=0.02)
        wall = mipmaps.background_level(avatar, tuple(p[0] for p in pyramid), K, avatar.extrinsics)
        assert wall.shape in (pyramid[max(level - 1, 0)].shape[1:], pyramid[max(level - 2, 0)].shape[1:])


def test_only_frames_that_show_more_than_the_portrait_need_the_photo(avatar):
    H, W = avatar.regions.shape
    for size, is_finer in (((H, W), False), ((H // 2, W // 2), False), ((2 * H, 2 * W), True)):
        assert mipmaps.shows_more(avatar, avatar_camera(avatar, CameraPath(), 2, 25.0, size)) == is_finer


def test_a_portrait_file_keeps_its_photo(tiny_models, portrait_files, fit_store):
    def models(size, photo):
        settings = tiny_models.params.avatar.model_copy(update={"size": size, "photo": photo})
        return replace(tiny_models, params=tiny_models.params.model_copy(update={"avatar": settings}))

    picture, landmarks = portrait_files
    key, folder = fit_portrait_once(picture, models(400, 480), fit_store, landmarks)
    avatar = load(Avatar, folder / "avatar.safetensors")
    assert avatar.portrait.shape[0] == 400 and avatar.photo.shape == avatar.background.shape == (480, 420, 3)
    other, folder = fit_portrait_once(picture, models(400, 400), fit_store, landmarks)
    assert other != key and load(Avatar, folder / "avatar.safetensors").photo is None
    with pytest.raises(ValidationError, match="photo: 300 px are less than size, 1024"):
        AvatarParams.model_validate(tiny_models.params.avatar.model_dump() | {"photo": 300})


def test_a_background_picture_keeps_its_own_size(avatar, tmp_path):
    H, W = avatar.regions.shape
    Image.new("RGB", (3 * W, 2 * H), (0, 200, 0)).save(tmp_path / "wall.png")
    plate = with_background(avatar, Background.read(str(tmp_path / "wall.png"))).background
    assert plate.shape == (2 * H, 2 * W, 3) and (plate == (0, 200, 0)).all()


def test_a_photo_that_is_not_larger_is_left_out(avatar):
    assert with_photo(avatar, avatar.portrait) is avatar


def test_avatars_with_and_without_a_photo_are_saved(avatar, checkered, tmp_path):
    for person in (avatar, with_photo(avatar, checkered)):
        save(person, tmp_path / "avatar.safetensors")
        again = load(Avatar, tmp_path / "avatar.safetensors")
        assert (again.photo is None) == (person.photo is None)
        if person.photo is not None:
            assert np.array_equal(again.photo, checkered) and again.background.shape == checkered.shape
    with pytest.raises(UserError, match=r"Avatar\.photo: expected uint8"):
        replace(avatar, photo=checkered.astype(np.float32))
    for name, picture in (("photo", checkered[:, ::2]), ("background", checkered[::4, ::4])):
        with pytest.raises(UserError, match=rf"Avatar\.{name}: expected the portrait's"):
            replace(avatar, **{name: np.ascontiguousarray(picture)})
