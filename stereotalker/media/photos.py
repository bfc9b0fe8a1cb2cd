"""Reads pictures of users: in any color mode, upright as their EXIF data says, and never larger than a limit."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from stereotalker.errors import UserError

# A picture with more pixels is refused from its header, before any of it is decoded.
MAX_PIXELS = 100_000_000

_FIRST_IS_MAIN = ("MPO", "TIFF")  # formats whose first frame is the picture, whatever comes behind it
_BACKDROP = (128, 128, 128)  # sRGB color behind transparent pixels


def read_photo(path: Path, longest: int | None = None, data: bytes | None = None) -> np.ndarray:
    """Read a still picture as u8 [H, W, 3] sRGB, upright, scaled down so that no side is longer than `longest` px.

    CMYK, gray, 16-bit and palette pictures are converted, embedded color profiles are applied, and transparent pictures
    are put on gray. Raises UserError for a file that is not a picture, is damaged, holds several frames, or has more
    than MAX_PIXELS pixels. data: the bytes of the file, if they are read already; `path` then only names it.
    """
    with _opened(path, data) as file:
        picture = _to_srgb(ImageOps.exif_transpose(file))
    return np.array(picture) if longest is None else shrink(np.asarray(picture), longest)


def shrink(picture: np.ndarray, longest: int) -> np.ndarray:
    """A picture u8 [H, W, 3], scaled down if a side is longer than `longest` px."""
    if max(picture.shape[:2]) <= longest:
        return np.array(picture)
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.array(image)


def check_photo(path: Path, smallest: int = 1) -> None:
    """Raise UserError if `read_photo` would, or if the shorter side has less than `smallest` px.

    Only the header is read, so damage in the pixels is not found.
    """
    with _opened(path) as file:
        if min(file.size) < smallest:
            raise UserError(
                f"{path}: the picture is {file.width} x {file.height} px; "
                f"expected at least {smallest} px on the shorter side"
            )


@contextmanager
def _opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture and check its header. Errors inside the block become UserErrors too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path if data is None else io.BytesIO(data)) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {file.width} x {file.height} px are more than {MAX_PIXELS // 1_000_000} megapixels; "
                        "scale the picture down"
                    )
                frames = getattr(file, "n_frames", 1)
                # Phones store a preview or a gain map behind the main picture, and scanners more pages.
                if frames > 1 and file.format not in _FIRST_IS_MAIN:
                    raise UserError(
                        f"{path}: holds {frames} frames; expected one still picture: export the frame you want"
                    )
                if file.mode == "F":
                    raise UserError(f"{path}: holds floating-point numbers; export it with 8 or 16 bits")
                yield file
    except UserError:
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: picture not found or not to be read: {error.strerror}") from None
    except UnidentifiedImageError:
        if path.suffix.lower() in _HEIF and not _HAS_HEIF:
            raise UserError(f"{path}: HEIC needs the extra [heic] (pip install 'stereotalker[heic]')") from None
        raise UserError(f"{path}: not a picture; expected PNG, JPEG, WebP, AVIF or TIFF") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more than {MAX_PIXELS // 1_000_000} megapixels; scale the picture down") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path}: the picture is damaged or incomplete ({error}); export it again") from None


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a gray picture of exactly (height, width) px as f32 [H, W] in 0..1. Raises UserError for another size."""
    mask = read_photo(path)[:, :, 0].astype(np.float32) / 255
    if mask.shape != size:
        raise UserError(
            f"{path}: expected {size[1]} x {size[0]} px as the portrait has, got {mask.shape[1]} x {mask.shape[0]}"
        )
    return mask


def _to_srgb(picture: Image.Image) -> Image.Image:
    """A picture in any mode, converted to the mode RGB in the color space sRGB."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I"):  # 16-bit gray, which convert() would clip
        gray = np.clip(np.asarray(picture, np.float64) * 255 / 65535, 0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("RGBA", "LA"):
        rgba = picture.convert("RGBA")
        backdrop = Image.new("RGBA", rgba.size, (*_BACKDROP, 255))
        picture = Image.alpha_composite(backdrop, rgba).convert("RGB")
    if profile and picture.mode in ("RGB", "CMYK"):
        try:
            converted = ImageCms.profileToProfile(
                picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            assert converted is not None
            return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile is ignored
    return picture.convert("RGB")


_HEIF = {".heic", ".heif"}
PICTURES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"} | _HEIF


def is_picture(name: str) -> bool:
    """Whether the name of an avatar or a background is that of a picture's file, by its ending."""
    return Path(name).suffix.lower() in PICTURES


def _register_heif() -> bool:
    """Let Pillow read HEIC, if the plug-in is installed. Returns whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


_HAS_HEIF = _register_heif()
