"""A portrait's file to a fitted avatar in the store: the same picture is fitted once, whoever asks."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.card_image import draw_card
from stereotalker.avatar.consent import Consent, check_consent
from stereotalker.avatar.detector_calibration import read_calibration
from stereotalker.avatar.fit_portrait import fit_portrait
from stereotalker.avatar.landmarks import KeyPointFile
from stereotalker.avatar.library import PICTURE, RECORD, TEXTURE, Card, Library
from stereotalker.avatar.mediapipe_detector import MediaPipe, detector_version, model_digests
from stereotalker.control.reference_warp import reference
from stereotalker.errors import ClipError, UserError
from stereotalker.media.photos import is_picture, read_photo
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.production.manifest import BACKGROUNDS
from stereotalker.records import Avatar, load, save
from stereotalker.runtime.home import Home
from stereotalker.store import keys
from stereotalker.store.digests import file_digest
from stereotalker.store.remote import AnyStore

_FIT = "fit.json"
_LOCK = threading.Lock()  # clips of a batch share one detector, and a fit uses every thread it may
_THREADS = 2  # of a fit, always: its last digits depend on them
_BLUR = 0.02  # of the longer side


@dataclass(frozen=True)
class AvatarRequest:
    """What is asked of an avatar that is added."""

    consent: Consent | None = None  # None: the old one of the same picture
    style: str = "presenter"
    landmarks: Path | None = None  # a file of key points instead of the detector
    replace: bool = False  # another picture under a name that is there


def fit_portrait_once(path: Path, models: Models, store: AnyStore, landmarks: Path | None = None) -> tuple[str, Path]:
    """Key and folder of the store's entry: RECORD, PICTURE, TEXTURE and fit.json. Raises ClipError with the reason where it cannot be done."""
    key = fit_key(path, models, landmarks)
    own = models.params.avatar

    def write(folder: Path) -> None:
        with _LOCK:
            torch.set_num_threads(_THREADS)
            picture = read_photo(path, own.size)
            with KeyPointFile(landmarks, path) if landmarks else MediaPipe(detector_folder(models.params)) as detector:
                try:
                    made = fit_portrait(picture, path.stem, detector, models.body, read_calibration())
                except ClipError as error:
                    raise ClipError(f"{path.name}: {error}") from None
        save(made.avatar, folder / RECORD)
        Image.fromarray(draw_card(made.avatar, models.body)).save(folder / PICTURE)
        texture = reference(made.avatar, models.body).texture
        Image.fromarray(np.dstack([np.clip(np.rint(texture.colour), 0, 255).astype(np.uint8), texture.seen])).save(
            folder / TEXTURE
        )
        fit = {
            "size": picture.shape[:2],
            "detector": detector.name,
            "residuals": made.residuals.as_dict(),
            "notes": made.notes,
        }
        (folder / _FIT).write_text(json.dumps(fit))

    return key, store.make("portrait", key, write)


def fit_key(path: Path, models: Models, landmarks: Path | None = None) -> str:
    """Of a portrait's fit in the store: picture, code, body, numbers, and what finds the key points. Raises UserError for what is not there."""
    try:
        source = [file_digest(file) for file in (path, *(KeyPointFile(landmarks, path).files() if landmarks else []))]
    except OSError as error:
        raise ClipError(f"{error.filename}: {error.strerror}") from None
    detector = [] if landmarks else [detector_version(), *model_digests(detector_folder(models.params))]
    return keys.portrait_key(source, detector, models.params.avatar.size, models.digests["body"])


def detector_folder(params: Params) -> Path:
    """Where MediaPipe's model files are looked for."""
    return params.avatar.detectors or Home.default().detectors


def add_avatar(
    library: Library, name: str, picture: Path, models: Models, store: AnyStore, wish: AvatarRequest
) -> tuple[Card, bool]:
    """Fit a portrait, or find its fit, and keep it by a name. Returns its card and whether anything changed. Raises UserError."""
    library.check_name(name)
    if wish.style not in STYLE_INDEX:
        raise UserError(f"style {wish.style!r} is unknown; expected one of {', '.join(STYLE_INDEX)}")
    check_consent(name, wish.consent, False, date.today())
    old = library.card(name) if name in library.own_names() else None
    key, folder = fit_portrait_once(picture, models, store, wish.landmarks)
    sha256 = file_digest(picture)
    same = old is not None and old.sha256 == sha256
    if old and not same and not wish.replace:
        raise UserError(f"avatar {name!r} is there already, from {old.picture}; give --replace, or another name")
    fit = json.loads((folder / _FIT).read_text())
    card = Card(
        name=name, key=key, picture=picture.name, sha256=sha256, made=date.today().isoformat(), size=tuple(fit["size"]), detector=fit["detector"],
        residuals=fit["residuals"], notes=tuple(fit["notes"]), style=wish.style, consent=wish.consent or (old.consent if same else None),
    )  # fmt: skip
    if old and replace(old, made=card.made) == card:
        return old, False
    avatar = replace(load(Avatar, folder / RECORD), name=name, style=STYLE_INDEX[wish.style])
    library.add(card, avatar, [folder / PICTURE, folder / TEXTURE])
    return card, True


def avatar_record(name: str, library: Library, models: Models, store: AnyStore) -> Path:
    """The record of a named avatar, or of a portrait's file. Raises ClipError."""
    return fit_portrait_once(Path(name), models, store)[1] / RECORD if is_picture(name) else library.find(name)


def fit_notes(name: str, models: Models, store: AnyStore) -> tuple[str, ...]:
    """What the fit of a portrait's file has to say; what a named avatar's had, its card does."""
    return (
        tuple(json.loads((fit_portrait_once(Path(name), models, store)[1] / _FIT).read_text())["notes"])
        if is_picture(name)
        else ()
    )


def with_background(record: Path, background: str) -> Avatar:
    """An avatar before another background: portrait and transparent keep its own. Raises ClipError."""
    avatar = load(Avatar, record)  # not read_avatar: one's own may be replaced
    H, W = avatar.regions.shape
    if background in ("portrait", "transparent"):
        return avatar
    if background == "blur":
        wall = cv2.GaussianBlur(avatar.background, (0, 0), _BLUR * max(H, W))
    elif background.startswith("#"):
        wall = np.broadcast_to(np.array(list(bytes.fromhex(background[1:])), np.uint8), (H, W, 3)).copy()
    else:
        wall = _filling(Path(background), (H, W))
    return replace(avatar, background=wall)


def background_digest(background: str) -> str:
    """What a background is made of. Raises ClipError for a file that is not there."""
    if background in BACKGROUNDS or background.startswith("#"):
        return background
    try:
        return file_digest(Path(background))
    except OSError as error:
        raise ClipError(f"background {background}: {error.strerror}") from None


def _filling(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A picture scaled to fill (height, width), cut at the longer side's ends."""
    try:
        picture = read_photo(path)
    except UserError as error:
        raise ClipError(f"background {error}") from None
    scale = max(size[0] / picture.shape[0], size[1] / picture.shape[1])
    wide = (max(size[1], round(picture.shape[1] * scale)), max(size[0], round(picture.shape[0] * scale)))
    large = cv2.resize(picture, wide, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (large.shape[0] - size[0]) // 2, (large.shape[1] - size[1]) // 2
    return np.ascontiguousarray(large[top : top + size[0], left : left + size[1]])
