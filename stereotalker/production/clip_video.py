"""The last stages of a clip: its frames and its sound become a video, and the quality gate judges it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stereotalker.avatar.background_plate import Background
from stereotalker.media.burnt_captions import check_font, draw_captions
from stereotalker.media.video_files import frame_count, write_video
from stereotalker.production import quality
from stereotalker.production.clip_judgement import Judged, judge_clip
from stereotalker.production.clip_speech import target_loudness
from stereotalker.production.clip_stages import ClipMaker, Performer, SoundStage, StageTimings
from stereotalker.production.conversation import conversation_captions
from stereotalker.production.manifest import Clip
from stereotalker.production.scene import drawing_order
from stereotalker.production.scene_pictures import compose, scene_background
from stereotalker.production.segments import RenderedSegment, SegmentJob, assemble, read_segment
from stereotalker.records import Motion, load
from stereotalker.store import keys


@dataclass(frozen=True)
class FinishedVideo:
    """A clip that is made: its unsigned video in the store, and the verdict on it."""

    file: Path
    verdict: quality.Verdict
    poster: Path
    keys: dict[str, str | list[str]]  # of the video and of its verdict in the store, by stage


def make_video(
    maker: ClipMaker,
    clip: Clip,
    performers: Sequence[Performer],
    rendered: Sequence[Sequence[tuple[SegmentJob, RenderedSegment]]],
    sound: SoundStage,
    timings: StageTimings,
    anew: bool,
    render: Callable[[list[SegmentJob]], object],
) -> FinishedVideo:
    """Stages video and quality: encode the frames with the sound, then judge the result.

    rendered: the jobs of each performer, with what became of them; anew: see `make_clip`; render: renders segments
    that turn out to be damaged in the store.
    """
    params, store = maker.params, maker.store
    frames = frame_count(sound.seconds, clip.fps)
    sound_file = maker.found("audio", sound.key) / "sound.wav"
    burnt = clip.captions if clip.captions and clip.captions.burn else None
    shown = conversation_captions(clip, sound.turns, sound.seconds, True) if burnt else ()
    if burnt:
        check_font("".join(caption.text for caption in shown), burnt)
    name = f"clip{Path(clip.file_name).suffix}"
    parts = [[(job.window, segment.keys) for job, segment in of_one] for of_one in rendered]
    background = Background.read(clip.background) if clip.scene else None
    video_key = keys.video_key(
        [[[window.start, window.stop, *segment_keys] for window, segment_keys in of_one] for of_one in parts],
        None
        if background is None
        else [clip.video_size, [p.box for p in performers], drawing_order(clip.scene), background.digest],
        sound.key,
        clip.fps,
        clip.file_name,
        clip.stereo.layout if clip.stereo else None,
        params.video.model_dump(mode="json"),
        [burnt.identity(), [[c.start, c.end, c.text] for c in shown]] if burnt else None,
    )

    def pictures() -> Iterator[np.ndarray]:
        streams = [assemble(of_one, frames, lambda key: read_segment(maker.found("render", key))) for of_one in parts]
        if background is None:
            return streams[0]
        size = clip.height, clip.width
        layers = [(box, streams[k]) for k in drawing_order(clip.scene) if (box := performers[k].box)]
        return compose(layers, scene_background(background, performers[0].avatar, size), size)

    def encode(folder: Path) -> None:
        for job, segment in (item for of_one in rendered for item in of_one):
            # Until now only their markers were looked at. A damaged entry is removed when it is read.
            if any(store.find("render", key) is None for key in segment.keys):
                render([replace(job, anew=False)])
        write_video(
            folder / name,
            draw_captions(pictures(), shown, burnt, clip.fps, clip.stereo) if burnt else pictures(),
            clip.video_size,
            clip.fps,
            sound_file,
            frames / clip.fps,
            params.video,
            clip.id,
            clip.stereo,
        )

    if anew:
        store.discard("video", video_key)
    video = maker.entry("video", video_key, encode, timings) / name
    loudness = target_loudness(clip, params.audio.loudness)
    cameras = [path.model_dump(mode="json") for path in (clip.camera, *(r.camera for r in clip.retakes if r.camera))]
    key = keys.quality_key(
        video_key,
        [[p.motion_key, p.avatar_key, [asdict(cue) for cue in p.cues]] for p in performers],
        loudness,
        cameras,
        params.quality.model_dump(mode="json"),
    )

    def judge(folder: Path) -> None:
        people = [
            Judged(
                clip.scene[k].label if clip.scene else "",
                p.clip,
                p.speech,
                load(Motion, maker.found("motion", p.motion_key) / "motion.safetensors"),
                p.avatar,
                p.cues,
                p.listening.listens,
                p.box,
            )
            for k, p in enumerate(performers)
        ]
        result = judge_clip(video, sound_file, clip, people, maker.models.body, loudness, params.quality)
        (folder / "verdict.json").write_text(result.verdict.to_json(), encoding="utf-8")
        (folder / "poster.jpg").write_bytes(result.poster)

    if anew:
        store.discard("quality", key)
    judged = maker.entry("quality", key, judge, timings)
    verdict = quality.Verdict.from_json((judged / "verdict.json").read_text(encoding="utf-8"))
    return FinishedVideo(video, verdict, judged / "poster.jpg", {"video": video_key, "quality": key})
