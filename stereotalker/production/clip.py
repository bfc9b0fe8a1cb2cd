"""From a manifest row to a finished clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stereotalker.errors import ClipError
from stereotalker.media.burnt_captions import Caption
from stereotalker.media.video_files import frame_count
from stereotalker.production import quality
from stereotalker.production.clip_stages import ClipMaker, Performer, SoundStage, StageTimings
from stereotalker.production.clip_video import make_video
from stereotalker.production.conversation import conversation_captions
from stereotalker.production.manifest import Clip
from stereotalker.production.segments import Progress, Render, RenderedSegment, SegmentJob


@dataclass(frozen=True)
class FinishedClip:
    """A clip that is made: its unsigned video in the store, and the verdict on it."""

    file: Path
    verdict: quality.Verdict
    poster: Path
    frames: int
    keys: dict[str, str | list[str]]  # of its entries in the store, by stage
    recognized: str = ""  # what was heard in recordings without a transcript
    recognized_language: str = ""
    captions: tuple[Caption, ...] = ()
    notes: tuple[str, ...] = ()  # what the author of its row should know


def make_clip(
    clip: Clip,
    maker: ClipMaker,
    render: Render,
    progress: Progress,
    timings: StageTimings,
    order: int = 0,
    anew: bool = False,
) -> FinishedClip:
    """Make one clip: from a manifest row to a judged video in the store.

    render: renders jobs, wherever; order: clips with a lower number are rendered first; anew: frames that an earlier
    run rendered are not taken from the store. Raises ClipError for a fault that only this clip has.
    """

    def report(_: str, stage: str, done: int, total: int) -> None:
        progress(clip.id, stage, done, total)  # in place of the id of a person in a scene

    avatars = [maker.avatar(alone) for alone in clip.people]
    report("", "audio", 0, 1)
    sound = maker.sound(clip, timings)
    report("", "motion", 0, 1)
    performers = maker.performers(clip, avatars, sound, timings)
    frames = frame_count(sound.seconds, clip.fps)
    for retake in clip.retakes:
        if retake.start * clip.fps >= frames:
            raise ClipError(f"a retake starts at {retake.start:g} s, but the clip lasts {frames / clip.fps:.2f} s")
    jobs = [maker.segments(p.clip, p.avatar_key, p.motion_key, frames, order) for p in performers]
    if anew:
        jobs = [[replace(job, anew=True) for job in of_one] for of_one in jobs]
    of_all = [job for of_one in jobs for job in of_one]
    report("", "render", 0, sum(job.frames for job in of_all))

    def render_and_note(jobs: list[SegmentJob]) -> list[RenderedSegment]:
        rendered = render(jobs, report)
        for segment in rendered:
            is_new = segment.seconds > 0
            timings.add("render", segment.seconds, made=is_new)
            timings.rendered += segment.frames if is_new else 0
        return rendered

    results = iter(render_and_note(of_all))
    rendered = [[(job, next(results)) for job in of_one] for of_one in jobs]
    report("", "video", 0, 1)
    video = make_video(maker, clip, performers, rendered, sound, timings, anew, render_and_note)
    segments = [key for of_one in rendered for _, segment in of_one for key in segment.keys]
    return FinishedClip(
        video.file,
        video.verdict,
        video.poster,
        frames,
        _entries(performers, sound) | {"render": segments} | video.keys,
        _recognized(clip, sound),
        next((speech.recognized_language for speech in sound.speeches if speech.recognized_language), ""),
        conversation_captions(clip, sound.turns, sound.seconds),
        maker.notes(clip, sound),
    )


def _recognized(clip: Clip, sound: SoundStage) -> str:
    """What was heard in the recordings of a clip; in a scene with the names of those who said it."""
    heard = [speech.recognized for speech in sound.speeches]
    if not clip.scene:
        return heard[0]
    return " / ".join(f"{person.label}: {text}" for person, text in zip(clip.scene, heard, strict=True) if text)


def _entries(performers: Sequence[Performer], sound: SoundStage) -> dict[str, str | list[str]]:
    """Keys in the store of what a clip is made of: one of each stage, or lists in a scene."""
    if performers[0].box is None:
        return {"audio": sound.key, "motion": performers[0].motion_key, "avatar": performers[0].avatar_key}
    return {
        "audio": [sound.key, *(turn.key for turn in sound.turns)],
        "motion": [performer.motion_key for performer in performers],
        "avatar": [performer.avatar_key for performer in performers],
    }


def preview(clip: Clip, side: int) -> Clip:
    """The clip at a smaller size: its smaller side has `side` px. Speech and motion are those of the full clip."""
    scale = side / min(clip.width, clip.height)
    if scale >= 1:
        return clip
    small = {name: max(32, round(getattr(clip, name) * scale / 2) * 2) for name in ("width", "height")}
    return clip.model_copy(update=small)
