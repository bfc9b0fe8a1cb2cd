"""Turns photographs into training samples: each is warped to a gesture, and from there back to its own pose.

The way back starts from a picture in which arms and hands lie elsewhere and hide other things, so its control maps have
the faults of production: limbs that were hidden, cloth that was uncovered, outlines that a fit misses. The truth is the
photograph itself, with real skin, hair and cloth. H x W: the photograph, N gestures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.body.model import Body
from stereotalker.control.loose_sleeves import pose_clothed
from stereotalker.control.reference_warp import Reference, control, reference
from stereotalker.control.warp_kernels import SEEN
from stereotalker.dataset.speech_corpus import PARTS
from stereotalker.errors import UserError
from stereotalker.geometry.camera import avatar_camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.motion.retargeting import Retargeting
from stereotalker.params import PhotographsParams
from stereotalker.records import Avatar, Motion, Speech, load, save
from stereotalker.smplx_layout import REGION
from stereotalker.store.code import modules_version
from stereotalker.store.digests import digest
from stereotalker.store.files import replacing
from stereotalker.training.samples import Sample

# Largest azimuth and elevation of the camera that sees the gesture, degrees.
_MAX_AZIMUTH, _MAX_ELEVATION = 18.0, 6.0
# Share of the gestures that a camera sees from the side; the others are seen by the portrait's own.
_TURNED_SHARE = 0.5
# Frames a second of the motions from which gestures are taken, and the strength of their gestures.
_FPS, _STRENGTH = 25.0, 1.5
# Photographs gesture to speeches that are longer than this, s.
_MIN_SPEECH_S = 4.0
HELD_OUT_EVERY = 3


def build_photographs(
    folder: Path,
    avatars: Iterable[tuple[int, Avatar]],
    body: Body,
    speeches: list[Speech],
    params: PhotographsParams,
    log: Callable[[str], None] = print,
) -> None:
    """Write `folder`/{train,held_out}/NAME-DIGEST.safetensors, one sample for each fitted photograph.

    avatars: the photographs with their numbers, of which every HELD_OUT_EVERY-th is held out; speeches: to which they
    gesture. The digest is that of all that a sample is made from, so a sample of the same inputs is kept, and all
    others are removed. Raises UserError without a speech that has words and is long enough.
    """
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    spoken = [speech for speech in speeches if speech.words and speech.seconds > _MIN_SPEECH_S]
    current = set()
    for number, avatar in avatars:
        if not spoken:
            raise UserError(
                f"photographs: no speech with words is longer than {_MIN_SPEECH_S:g} s; run the stage `speech` with "
                "more utterances or recordings"
            )
        seed = params.seed + number
        speech = spoken[seed % len(spoken)]
        train, held_out = PARTS
        part = held_out if number % HELD_OUT_EVERY == 0 else train
        path = folder / part / f"{avatar.name}-{_sample_digest(avatar, speech, params, seed)}.safetensors"
        current.add(path)
        if not path.exists():
            sample = photograph_sample(avatar, body, speech, params.gestures, params.size, seed)
            with replacing(path) as temporary:
                save(sample, temporary)
            log(f"photographs: {avatar.name}")
    for path in folder.glob("*/*.safetensors"):
        if path not in current:
            path.unlink()


def read_photographs(folder: Path) -> list[Sample]:
    """The samples of a folder, in the order of their names; none where the folder holds none."""
    return [load(Sample, path) for path in sorted(folder.glob("*.safetensors"))]


def _sample_digest(avatar: Avatar, speech: Speech, params: PhotographsParams, seed: int) -> str:
    fit = {name: value for name, value in vars(avatar).items() if isinstance(value, np.ndarray)}
    words = [(word.text, word.start, word.end) for word in (*speech.words, *speech.phonemes)]
    code = modules_version(("training.photographs",))
    return digest(code, fit, avatar.style, speech.samples, words, params.gestures, params.size, seed)[:12]


def photograph_sample(avatar: Avatar, body: Body, speech: Speech, gestures: int, size: int, seed: int) -> Sample:
    """The sample of a fitted photograph, from `gestures` moments of a motion to a speech.

    See `gesture_and_back` for the other arguments.
    """
    acted = act(speech, STYLES[avatar.style], seed, _FPS, _STRENGTH)
    motion = Retargeting.of_speaker(avatar, body, avatar.style).apply(acted)
    moments = np.linspace(0, len(motion.poses) - 1, gestures + 2)[1:-1].astype(int)
    # A portrait's record has no translation of the body.
    still = np.zeros((gestures, 3), np.float32)
    chosen = Motion(motion.poses[moments], motion.expression[moments], still, motion.fps)
    return gesture_and_back(avatar, body, chosen, size, seed)


def gesture_and_back(avatar: Avatar, body: Body, gestures: Motion, size: int, seed: int) -> Sample:
    """A sample with one frame for every frame of `gestures`, all in the portrait's own pose and camera.

    avatar: the fitted photograph; gestures: N poses of this person. size: longer side of the frames, px. The `identity`
    of the sample is `seed`. Its portrait, of size x size px, is that of the first gesture. Angles are those of the
    frames' camera, which is in front of the person, as a portrait's is.
    """
    rng = np.random.default_rng(seed)
    shape = _scaled(avatar.regions.shape, size)
    ref = reference(avatar, body)
    gesturing = [_seen_gesturing(ref, avatar, body, gestures.frames(n, n + 1), rng) for n in range(len(gestures.poses))]
    still = Motion.still(avatar.poses, avatar.expression)
    own_view = avatar_camera(avatar, CameraPath(), 1, _FPS, shape)
    returned = [control(reference(other, body), body, still, own_view) for other in gesturing]

    def stacked(name: str) -> np.ndarray:
        return np.concatenate([getattr(maps, name) for maps in returned])

    N, portrait = len(returned), cv2.resize(avatar.portrait, shape[::-1], interpolation=cv2.INTER_AREA)
    regions = cv2.resize(avatar.regions, shape[::-1], interpolation=cv2.INTER_NEAREST)
    return Sample(
        identity=seed,
        # A square, as the reference network sees it: photographs of all shapes share a batch.
        portrait=cv2.resize(gesturing[0].portrait, (size, size), interpolation=cv2.INTER_AREA),
        image=np.repeat(portrait[None], N, 0),
        regions=np.repeat(regions[None], N, 0),
        **{name: stacked(name) for name in ("warp", "visibility", "normals", "labels", "plate")},
        angles=np.zeros((N, 2), np.float32),
        frames=1,
    )


def _seen_gesturing(ref: Reference, avatar: Avatar, body: Body, gesture: Motion, rng: np.random.Generator) -> Avatar:
    """The avatar whose portrait is the warp of `gesture`, one frame, from a random camera.

    Where the photograph did not show what the warp draws, the new portrait is labeled as background, so that no warp
    takes colors from there. The reference picture still holds them.
    """
    azimuth, elevation = rng.uniform(-1, 1, 2) * (_MAX_AZIMUTH, _MAX_ELEVATION) * (rng.random() < _TURNED_SHARE)
    path = CameraPath(azimuth=float(azimuth), elevation=float(elevation))
    view = avatar_camera(avatar, path, 1, _FPS, avatar.regions.shape)
    maps = control(ref, body, gesture, view)
    departure = pose_clothed(avatar, body, ref.round_surface, gesture)[1][0, :, None]
    surface = avatar.surface + departure * (ref.round_surface - avatar.surface.astype(np.float32))
    return replace(
        avatar,
        surface=surface.astype(np.float16),
        portrait=maps.warp[0],
        background=maps.plate[0],
        regions=np.where(maps.visibility[0] == SEEN, maps.labels[0], REGION["background"]).astype(np.uint8),
        poses=gesture.poses[0],
        expression=gesture.expression[0],
        intrinsics=view.intrinsics[0],
        extrinsics=view.extrinsics[0],
    )


def _scaled(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width with a longer side of `size`, both even."""
    H, W = shape
    return 2 * round(H * size / max(H, W) / 2), 2 * round(W * size / max(H, W) / 2)
