"""Turns portraits into avatars. The fit of a portrait is kept in the store, so the same picture is fitted only once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.card_image import draw_card
from stereotalker.avatar.consent import Consent, check_consent
from stereotalker.avatar.detector_calibration import read_calibration
from stereotalker.avatar.fallback_crops import fallback_crops
from stereotalker.avatar.fit_portrait import MIN_SIDE_PX, FittedPortrait, fit_portrait
from stereotalker.avatar.landmarks import KeypointFile
from stereotalker.avatar.library import CARD_IMAGE_FILE, RECORD_FILE, TEXTURE_FILE, Card, Library
from stereotalker.avatar.mediapipe_detector import MediaPipe, detector_version, model_digests
from stereotalker.avatar.photo_detail import with_photo
from stereotalker.control.reference_warp import reference
from stereotalker.errors import ClipError, UserError
from stereotalker.media.photos import is_picture, read_photo, shrink
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.records import Avatar, load, save
from stereotalker.runtime.home import Home
from stereotalker.store import keys
from stereotalker.store.digests import bytes_digest, file_digest
from stereotalker.store.local import Store
from stereotalker.store.remote import AnyStore

_FIT_FILE = "fit.json"  # in a store entry of the stage "portrait": what the fit found, beside the avatar's record

# Fits run one after the other: the clips of a batch share one detector, and one fit uses all threads.
_FIT_LOCK = threading.Lock()

# Threads of a fit. The number is fixed because the last digits of the result depend on it.
_FIT_THREADS = 2


@dataclass(frozen=True)
class AvatarRequest:
    """Options of an avatar that is added to the library."""

    consent: Consent | None = None  # None: keep the consent recorded for the same picture
    style: str = "presenter"
    landmarks: Path | None = None  # file of key points that is used instead of the detector
    replace: bool = False  # whether a name that exists may get another picture


def fit_portrait_once(path: Path, models: Models, store: AnyStore, landmarks: Path | None = None) -> tuple[str, Path]:
    """Fit a portrait, or find its fit in the store. Returns key and folder of the store entry.

    The folder holds RECORD_FILE, CARD_IMAGE_FILE, TEXTURE_FILE and fit.json. Raises ClipError, with the reason, if no
    fit is possible.
    """
    try:
        data = path.read_bytes()  # once, so that the key is that of the picture that is fitted
    except OSError as error:
        raise ClipError(f"{path}: {error.strerror}") from None
    key = fit_key(path, data, models, landmarks)
    size, photo_size = models.params.avatar.size, models.params.avatar.photo

    def write(folder: Path) -> None:
        with _FIT_LOCK:
            torch.set_num_threads(_FIT_THREADS)
            full = read_photo(path, data=data)
            picture = shrink(full, size)
            with KeypointFile(landmarks, path) if landmarks else MediaPipe(detector_folder(models.params)) as detector:
                calibration = read_calibration(models.calibration_file)

                def fit_picture(picture: np.ndarray) -> FittedPortrait:
                    return fit_portrait(picture, path.stem, detector, models.body, calibration)

                try:
                    result = fit_picture(picture)
                except ClipError as error:
                    found = None if landmarks else _fit_fallback_crop(full, size, fit_picture)
                    if found is None:
                        raise ClipError(f"{path.name}: {error}") from None
                    full, result = found
        save(with_photo(result.avatar, shrink(full, photo_size)), folder / RECORD_FILE)
        Image.fromarray(draw_card(result.avatar, models.body)).save(folder / CARD_IMAGE_FILE)
        texture = reference(result.avatar, models.body).texture
        colors = np.clip(np.rint(texture.colour), 0, 255).astype(np.uint8)
        Image.fromarray(np.dstack([colors, texture.seen])).save(folder / TEXTURE_FILE)
        fit = {
            "size": result.avatar.portrait.shape[:2],
            "detector": detector.name,
            "residuals": result.residuals.as_dict(),
            "notes": result.notes,
        }
        (folder / _FIT_FILE).write_text(json.dumps(fit), encoding="utf-8")

    return key, store.make("portrait", key, write)


def _fit_fallback_crop(
    picture: np.ndarray, size: int, fit: Callable[[np.ndarray], FittedPortrait]
) -> tuple[np.ndarray, FittedPortrait] | None:
    """The first crop of a full-size picture in which a person can be fitted, and the fit; None if there is none."""
    for crop in fallback_crops(picture):
        portrait = shrink(crop, size)
        if min(portrait.shape[:2]) < MIN_SIDE_PX:
            continue
        try:
            result = fit(portrait)
        except ClipError:
            continue
        height, width = portrait.shape[:2]
        note = f"the portrait was cut to {width} x {height} px: no person could be fitted in the whole picture"
        return crop, replace(result, notes=(*result.notes, note))
    return None


def fitted_portraits(folder: Path, models: Models, part: str) -> Iterator[tuple[int, Avatar]]:
    """Every picture of a folder that can be fitted, as an avatar with the picture's name, and the picture's number.

    A picture that cannot be fitted is printed with the reason, behind the name of the part of the pipeline.
    """
    store = Store(Home.default().store)
    for k, path in enumerate(sorted(p for p in folder.iterdir() if is_picture(p.name))):
        try:
            avatar = load(Avatar, fit_portrait_once(path, models, store)[1] / RECORD_FILE)
        except ClipError as error:
            print(f"{part}: {error}")
            continue
        yield k, replace(avatar, name=path.stem)


def fit_key(path: Path, data: bytes, models: Models, landmarks: Path | None = None) -> str:
    """Store key of a portrait's fit, see `keys.portrait_key`. data: the bytes of the file at `path`.

    Raises ClipError if a file does not exist, UserError if there is no detector.
    """
    try:
        landmark_files = KeypointFile(landmarks, path).files() if landmarks else []
        source = [bytes_digest(data), *(file_digest(file) for file in landmark_files)]
    except OSError as error:
        raise ClipError(f"{error.filename}: {error.strerror}") from None
    detector = [] if landmarks else [detector_version(), *model_digests(detector_folder(models.params))]
    calibration = file_digest(models.calibration_file)
    settings = models.params.avatar
    return keys.portrait_key(source, detector, (settings.size, settings.photo), models.body_version, calibration)


def detector_folder(params: Params) -> Path:
    """The folder in which MediaPipe's model files are expected."""
    return params.avatar.detectors or Home.default().detectors


def add_avatar(
    library: Library, name: str, picture: Path, models: Models, store: AnyStore, request: AvatarRequest
) -> tuple[Card, bool]:
    """Fit a portrait, or find its fit, and add it to the library under a name.

    Returns the avatar's card, and whether anything in the library changed. Raises UserError.
    """
    library.check_name(name)
    if request.style not in STYLE_INDEX:
        raise UserError(f"style {request.style!r} is unknown; expected one of {', '.join(STYLE_INDEX)}")
    check_consent(name, request.consent, False, date.today())
    old = library.card(name) if name in library.own_names() else None
    key, folder = fit_portrait_once(picture, models, store, request.landmarks)
    sha256 = file_digest(picture)
    is_same_picture = old is not None and old.sha256 == sha256
    if old and not is_same_picture and not request.replace:
        raise UserError(f"avatar {name!r} is there already, from {old.picture}; give --replace, or another name")
    fit = json.loads((folder / _FIT_FILE).read_text(encoding="utf-8"))
    card = Card(
        name=name,
        key=key,
        picture=picture.name,
        sha256=sha256,
        made=date.today().isoformat(),
        size=tuple(fit["size"]),
        detector=fit["detector"],
        residuals=fit["residuals"],
        notes=tuple(fit["notes"]),
        style=request.style,
        consent=request.consent or (old.consent if old and is_same_picture else None),
    )
    if old and replace(old, made=card.made) == card:
        return old, False
    avatar = replace(load(Avatar, folder / RECORD_FILE), name=name, style=STYLE_INDEX[request.style])
    library.add(card, avatar, [folder / CARD_IMAGE_FILE, folder / TEXTURE_FILE])
    return card, True


def avatar_record(name: str, library: Library, models: Models, store: AnyStore) -> Path:
    """Path of the record of an avatar, which is named in the library or by a portrait's file. Raises ClipError."""
    return fit_portrait_once(Path(name), models, store)[1] / RECORD_FILE if is_picture(name) else library.find(name)


def fit_notes(name: str, models: Models, store: AnyStore) -> tuple[str, ...]:
    """Notes on the fit of a portrait's file. Empty for an avatar of the library, whose card shows them."""
    if not is_picture(name):
        return ()
    folder = fit_portrait_once(Path(name), models, store)[1]
    return tuple(json.loads((folder / _FIT_FILE).read_text(encoding="utf-8"))["notes"])
