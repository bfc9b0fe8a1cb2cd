"""Pictures of users: every color mode is read correctly, and every file that is no picture is refused in words."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from stereotalker.errors import UserError
from stereotalker.media.photos import check_photo, read_mask, read_photo

ORANGE, BLUE = (230, 120, 40), (30, 60, 200)


@pytest.fixture
def picture() -> Image.Image:
    """Orange above blue, wider than high."""
    pixels = np.full((60, 80, 3), BLUE, np.uint8)
    pixels[:30] = ORANGE
    return Image.fromarray(pixels)


def is_close(a, b, tolerance=6) -> bool:
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= tolerance


def test_a_picture_is_read_unchanged(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_photo(tmp_path / "a.png"), np.asarray(picture))


def test_large_pictures_are_scaled_down_and_small_ones_never_up(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png", 40).shape == (30, 40, 3)
    assert read_photo(tmp_path / "a.png", 400).shape == (60, 80, 3)


def test_the_orientation_in_exif_is_applied(picture, tmp_path):
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # The top of the sensor is the right side of the picture.
    turned.save(tmp_path / "a.jpg", exif=exif, quality=98)
    upright = read_photo(tmp_path / "a.jpg")
    assert upright.shape == (60, 80, 3) and is_close(upright[5, 40], ORANGE, 12) and is_close(upright[55, 40], BLUE, 12)


def test_cmyk_is_converted(picture, tmp_path):
    picture.convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    read = read_photo(tmp_path / "a.jpg")
    assert read.shape == (60, 80, 3) and is_close(read[5, 40], ORANGE, 16)


def test_sixteen_bit_gray_is_converted(tmp_path):
    Image.fromarray(np.full((40, 40), 32768, np.uint16)).save(tmp_path / "a.png")
    assert is_close(read_photo(tmp_path / "a.png"), 128, 1)


def test_transparent_pixels_are_composited_onto_gray(picture, tmp_path):
    rgba = picture.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat(np.array([[255], [0]], np.uint8), 30, 0).repeat(80, 1)))
    rgba.save(tmp_path / "a.png")
    read = read_photo(tmp_path / "a.png")
    assert is_close(read[5, 40], ORANGE) and is_close(read[55, 40], 128, 1)


def test_a_palette_with_transparency_is_converted(picture, tmp_path):
    picture.quantize(4).save(tmp_path / "a.png", transparency=0)
    read = read_photo(tmp_path / "a.png")
    assert is_close(read[5, 40], ORANGE) or is_close(read[55, 40], BLUE)
    # The other color was made transparent and lies on gray.
    assert (np.abs(read.astype(int) - 128).max(-1) < 2).any()


def test_an_embedded_color_profile_is_applied_and_a_broken_one_ignored(picture, tmp_path):
    picture.save(tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    picture.save(tmp_path / "b.png", icc_profile=b"no profile at all")
    for name in ("a.png", "b.png"):
        assert is_close(read_photo(tmp_path / name)[5, 40], ORANGE, 2)
    swapped = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        .tobytes()
        .replace(b"rXYZ", b"temp")
        .replace(b"bXYZ", b"rXYZ")
        .replace(b"temp", b"bXYZ")
    )
    # In this profile red and blue are swapped.
    Image.fromarray(np.flip(np.asarray(picture), 2)).save(tmp_path / "c.png", icc_profile=swapped)
    assert is_close(read_photo(tmp_path / "c.png")[5, 40], ORANGE, 4)


def test_animations_are_refused(picture, tmp_path):
    picture.save(tmp_path / "a.gif", save_all=True, append_images=[picture.rotate(90), picture.rotate(45)])
    with pytest.raises(UserError, match=r"^[^ ]*a.gif: holds 3 frames; expected one still picture"):
        read_photo(tmp_path / "a.gif")


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path):
    for size in ((15_000, 8_000), (20_000, 10_000)):  # The second exceeds Pillow's own limit too.
        Image.new("1", size).save(tmp_path / "bomb.png")
        for read in (read_photo, check_photo):
            with pytest.raises(
                UserError, match=r"^[^ ]*bomb.png: [^(]*more than 100 megapixels; scale the picture down$"
            ):
                read(tmp_path / "bomb.png")


def test_truncated_missing_and_non_picture_files_are_refused(picture, tmp_path):
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    noisy.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("I am a portrait, believe me.")
    (tmp_path / "empty.png").touch()
    for name, complaint in (
        ("cut.png", "damaged or incomplete"),
        ("text.png", "not a picture; expected PNG"),
        ("empty.png", "not a picture"),
        ("none.png", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(UserError, match=complaint):
            read_photo(tmp_path / name)


def test_a_mask_must_have_the_size_of_the_portrait(tmp_path):
    Image.new("L", (30, 20), 255).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (20, 30)).max() == 1.0
    with pytest.raises(UserError, match="expected 40 x 20 px as the portrait has, got 30 x 20"):
        read_mask(tmp_path / "m.png", (20, 40))
