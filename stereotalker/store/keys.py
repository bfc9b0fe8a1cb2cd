"""Store keys: one function a stage, so that this file shows everything that a key holds.

An entry is found again only if its key is the same, so a key holds whatever may change the entry's bytes: the code and
the libraries (see store/code.py), the inputs (by digest or by the key of the stage before), the models (by digest), the
parameters, and the number of threads or the arithmetic where sums are rounded differently with another. Arguments are
plain values, records' arrays and digests; every key is a hexadecimal string of 40 characters.
"""

from __future__ import annotations

from collections.abc import Sequence

from stereotalker.store.code import stage_version
from stereotalker.store.digests import digest

Json = dict | list | str | int | float | bool | None


def speech_key(source: Sequence, loudness: float) -> str:
    """Stage audio. source: see production.clip_speech.speech_source."""
    return digest("audio", stage_version("audio"), list(source), loudness)


def scene_sound_key(turns: Sequence, loudness: float) -> str:
    """The sound of a scene. turns: when each begins, s, and the key of its speech."""
    return digest("scene sound", stage_version("audio"), list(turns), loudness)


def motion_key(
    speech: str,
    controls: str,
    fps: float,
    frames: int,
    models: Sequence[str],
    params: Json,
    threads: int,
    arithmetic: str,
) -> str:
    """Stage motion.

    speech: key of the stage audio; controls: digest of what the manifest asks of the motion, and of the speaker that it
    is fitted to; models: digests of the body, the audio encoder and the motion model; params: the section `motion`;
    threads: of the worker; arithmetic: see runtime.device.
    """
    return digest(
        "motion", stage_version("motion"), speech, controls, fps, frames, list(models), params, threads, arithmetic
    )


def portrait_key(
    files: Sequence[str], detector: Sequence[str], longest_sides: Sequence[int], body: str, calibration: str
) -> str:
    """A portrait's fit.

    files: digests of the picture and of a file of key points; detector: its version and models; longest_sides: of the
    portrait and of its photo, px; body: see Models.body_version; calibration: digest of the detector calibration.
    """
    return digest(
        "portrait", stage_version("portrait"), list(files), list(detector), list(longest_sides), body, calibration
    )


def avatar_key(record: str, background: str) -> str:
    """An avatar in front of a background. record: digest of the avatar's file; background: its digest or its name."""
    return digest("avatar", stage_version("avatar"), record, background)


def clip_render_key(
    motion: str, avatar: str, models: Sequence[str], picture: Json, params: Json, seed: int, arithmetic: str
) -> str:
    """Everything of a rendered segment's key but its frames.

    motion, avatar: keys of those entries; models: digests of the body, the masks and the renderer; picture: camera
    path, width, height, frame rate, transparency and stereo; params: the section `render` and the worker's threads;
    arithmetic: see runtime.device.
    """
    return digest("render", stage_version("render"), motion, avatar, list(models), picture, params, seed, arithmetic)


def segment_key(clip_render: str, start: int, stop: int) -> str:
    """Stage render: the frames start..stop-1 of a clip. clip_render: see `clip_render_key`."""
    return digest(clip_render, start, stop)


def video_key(
    segments: Sequence,
    scene: Json,
    sound: str,
    fps: float,
    file_name: str,
    stereo_layout: str | None,
    params: Json,
    captions: Json,
) -> str:
    """Stage video.

    segments: of each person, first frame, frame behind the last, and the keys of every part, in the order of frames;
    scene: where the people are, their order and the background, None: there is one person; sound: key of the sound;
    captions: those that are drawn into the pictures, and how, None: there are none.
    """
    made_of = [list(segments), scene, sound, fps, file_name, stereo_layout, params, captions]
    return digest("video", stage_version("video"), *made_of)


def quality_key(video: str, people: Sequence, loudness: float, cameras: Json, params: Json) -> str:
    """Stage quality: the verdict on a video that should follow the motion of its people.

    people: of each, the keys of motion and avatar, and what the person was asked to do; cameras: paths of the clip's
    camera and of its retakes'; params: the section `quality`.
    """
    return digest("quality", stage_version("quality"), video, list(people), loudness, cameras, params)


def provenance_key(video: str, signer: str, claims: Json) -> str:
    """Stage provenance: the signed video.

    video: digest of the file; signer: digest of the certificate chain; claims: what the credentials say.
    """
    return digest("provenance", stage_version("provenance"), video, signer, claims)
