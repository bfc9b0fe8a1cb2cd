"""Store keys: one function a stage, so that this file shows everything that a key holds.

An entry is found again only if its key is the same, so a key holds whatever may change the entry's bytes: the code,
the inputs (by digest or by the key of the stage before), the models (by digest) and the parameters. Arguments are plain
values, records' arrays and digests; every key is a hexadecimal string of 40 characters.
"""

from __future__ import annotations

from collections.abc import Sequence

from stereotalker.store.digests import code_version, digest

Json = dict | list | str | int | float | bool | None


def speech_key(source: Sequence, loudness: float) -> str:
    """Stage audio. source: ("script", text, language, voice, rate), or ("file", digest, transcript, language)."""
    return digest("audio", code_version(), list(source), loudness)


def motion_key(
    speech: str,
    controls: str,
    fps: float,
    frames: int,
    models: Sequence[str],
    params: Json,
    threads: int,
) -> str:
    """Stage motion.

    speech: key of the stage audio; controls: digest of what the manifest asks of the motion, and of the speaker that it
    is fitted to; models: digests of the audio encoder, the body and the motion model; params: the section `motion`;
    threads: of the worker, because sums are rounded differently with another number.
    """
    return digest("motion", code_version(), speech, controls, fps, frames, list(models), params, threads)


def portrait_key(files: Sequence[str], detector: Sequence[str], longest_side: int, body: str) -> str:
    """A portrait's fit. files: digests of the picture and of a file of key points; detector: its version and models."""
    return digest("portrait", code_version(), list(files), list(detector), longest_side, body)


def avatar_key(record: str, background: str) -> str:
    """An avatar in front of a background. record: digest of the avatar's file; background: its digest or its name."""
    return digest("avatar", code_version(), record, background)


def clip_render_key(motion: str, avatar: str, models: Sequence[str], picture: Json, params: Json, seed: int) -> str:
    """Everything of a rendered segment's key but its frames.

    motion, avatar: keys of those entries; models: digests of body, masks and renderer; picture: camera path, width,
    height, frame rate, transparency and stereo; params: the section `render`, the body reader and the worker's threads.
    """
    return digest("render", code_version(), motion, avatar, list(models), picture, params, seed)


def segment_key(clip_render: str, start: int, stop: int) -> str:
    """Stage render: the frames start..stop-1 of a clip. clip_render: see `clip_render_key`."""
    return digest(clip_render, start, stop)


def video_key(
    segments: Sequence, speech: str, fps: float, file_name: str, stereo_layout: str | None, params: Json
) -> str:
    """Stage video. segments: first frame, frame behind the last, and the keys of every part, in the order of frames."""
    return digest("video", code_version(), list(segments), speech, fps, file_name, stereo_layout, params)


def quality_key(video: str, motion: str, loudness: float, cameras: Json, params: Json) -> str:
    """Stage quality: the verdict on a video that should follow a motion.

    cameras: paths of the clip's camera and of its retakes'; params: the section `quality`.
    """
    return digest("quality", code_version(), video, motion, loudness, cameras, params)


def provenance_key(video: str, signer: str, claims: Json) -> str:
    """Stage provenance: the signed video. signer: digest of the certificate chain; claims: what the credentials say."""
    return digest("provenance", code_version(), video, signer, claims)
