"""Turns a user's own footage into shards: talking videos, cut into shots of one speaker each.

Transcripts are used where there are some. The layout is that of the synthetic shards as far as footage goes: JSON,
sound, and the frames of one camera, with detected faces instead of exact labels; there is no fitted body. Every shot
keeps a statement of whose consent covers it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image

from stereotalker.audio.forced_alignment import align
from stereotalker.audio.speech import from_file
from stereotalker.dataset.shards import JPEG_OPTIONS, picture_bytes, write_or_log, write_tar
from stereotalker.dataset.speech_corpus import REJECTED
from stereotalker.errors import ClipError, UserError, shared_fault
from stereotalker.media.audio_files import wav_bytes
from stereotalker.media.faces import SIDE, find_faces, resize_for_detection
from stereotalker.records import SAMPLE_RATE, Timed
from stereotalker.store.digests import file_digest
from stereotalker.validation import as_utf8, is_text

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v"}
MIN_SHOT_S, MAX_SHOT_S = 0.8, 20.0  # length of a shot, s: shorter ones are refused, longer ones are cut into pieces
MIN_FACE_SHARE = 0.8  # share of the checked frames that must show a face, below which a shot is refused
_CHECK_INTERVAL_S = 0.2  # s between frames that are searched for faces


@dataclass(frozen=True)
class Shot:
    """A stretch of a video without a cut, [start, stop) in frames."""

    start: int
    stop: int


@dataclass(frozen=True)
class IngestResult:
    """What became of a folder of videos."""

    shards: list[Path]
    shots: int  # that were kept
    seconds: float  # of all shots that were kept
    rejected: list[dict]  # rows of rejected.jsonl: file, reason, and the start (s) of a refused shot


def ingest(folder: Path, out: Path, consent: str, loudness: float, log: Callable[[str], None] = print) -> IngestResult:
    """Turn every video below `folder` into shards in `out`, one per shot.

    What is refused goes to rejected.jsonl, and the run goes on. consent: whose permission covers the people in the
    videos; it is kept with every shot. loudness: LUFS to which the sound is brought. Raises UserError without
    consent or videos, and where transcripts.csv cannot be read.
    """
    if not consent.strip():
        raise UserError(
            "footage of real people needs their consent: say whose and for what with --consent, "
            "e.g. 'release forms 12-30, training and demos'"
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected one with videos ({', '.join(sorted(VIDEOS))})")
    videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and not p.name.startswith("._"))
    if not videos:
        raise UserError(f"{folder} holds no video; expected files like take.mp4 ({', '.join(sorted(VIDEOS))})")
    transcripts = _read_transcripts(folder)
    out.mkdir(parents=True, exist_ok=True)
    rejected, shards, seconds = [], [], 0.0
    for video in videos:
        name = as_utf8(video.relative_to(folder).as_posix())
        try:
            for shard, row in _ingest_video(video, name, _transcript(video, name, transcripts), out, consent, loudness):
                if shard is None:
                    rejected.append(row)
                    log(f"{name}: shot at {row['start']:.2f} s refused: {row['reason']}")
                    continue
                shards.append(shard)
                seconds += row["seconds"]
                log(f"{name}: {row['seconds']:.1f} s, {len(row['words'])} words -> {shard.name}")
        except (ClipError, UserError) as error:
            rejected.append({"file": name, "reason": str(error)})
        except OSError as error:
            if not shared_fault(error):
                raise
            rejected.append({"file": name, "reason": f"{out} cannot be written: {error.strerror}"})
        else:
            continue
        log(f"{name}: refused: {rejected[-1]['reason']}")
    write_or_log(out / REJECTED, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected), log)
    return IngestResult(shards, len(shards), seconds, rejected)


def _read_transcripts(folder: Path) -> dict[str, str]:
    """Texts by file name from transcripts.csv (columns file, text); empty without that file. Raises UserError."""
    table = folder / "transcripts.csv"
    if not table.is_file():
        return {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a mark
            rows = csv.DictReader(file)
            if not {"file", "text"} <= set(rows.fieldnames or ()):
                raise UserError(
                    f"{table}: expected columns file and text, found {', '.join(rows.fieldnames or ['none'])}"
                )
            return {row["file"]: row["text"] for row in rows}
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text; save it as UTF-8") from None


def _transcript(video: Path, name: str, transcripts: dict[str, str]) -> str:
    """The text file beside a video, or the video's row of transcripts.csv, or an empty text.

    Raises UserError where the text file is not UTF-8.
    """
    text_file = video.with_suffix(".txt")
    if not text_file.is_file():
        return transcripts.get(name) or transcripts.get(video.name) or ""
    try:
        return text_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{text_file.name} is not UTF-8 text; save it as UTF-8") from None


def _ingest_video(
    video: Path, name: str, text: str, out: Path, consent: str, loudness: float
) -> Iterator[tuple[Path | None, dict]]:
    """(shard, its JSON) of every shot, or (None, row of rejected.jsonl). Raises ClipError for an unusable video."""
    fps, size = _probe(video)
    speech = from_file(video, loudness)
    samples, level = speech.samples, speech.loudness
    if not np.isfinite(level):
        raise ClipError(f"{video} is silent; expected speech")
    aligned = align(samples, text) if text.strip() else None
    if not text.strip():
        alignment_note = "no transcript"
    elif aligned:
        alignment_note = ""
    else:
        alignment_note = (
            "the transcript cannot be aligned: another text, or digits, letters or words that pocketsphinx's English "
            "does not know"
        )
    key = f"{_safe_name(name)}-{file_digest(video)[:12]}"
    for number, decoded in enumerate(_decode_shots(video, list(_detect_shots(video, fps)), fps)):
        start, seconds = decoded.shot.start / fps, (decoded.shot.stop - decoded.shot.start) / fps
        reason = decoded.reason or (
            "" if seconds >= MIN_SHOT_S else f"lasts {seconds:.2f} s; expected at least {MIN_SHOT_S} s"
        )
        if reason:
            yield None, {"file": name, "start": round(start, 3), "reason": reason}
            continue
        words, phonemes = (_within(items, start, start + seconds) for items in aligned) if aligned else ((), ())
        row = {
            "kind": "footage",
            "file": name,
            "start": start,
            "seconds": seconds,
            "fps": fps,
            "frames": len(decoded.frames),
            "cameras": 1,
            "size": list(size),
            "consent": consent,
            "loudness": level,
            "text": text,
            "alignment": alignment_note,
            "words": [list(asdict(w).values()) for w in words],
            "phonemes": [list(asdict(p).values()) for p in phonemes],
            "faces": decoded.faces,
        }
        prefix = f"{key}-{number}"
        shot_samples = samples[round(start * SAMPLE_RATE) : round((start + seconds) * SAMPLE_RATE)]
        members = [
            (f"{prefix}.json", json.dumps(row, ensure_ascii=False).encode()),
            (f"{prefix}.wav", wav_bytes(shot_samples, SAMPLE_RATE)),
        ]
        members += [(f"{prefix}.c0.t{t:04d}.jpg", frame) for t, frame in enumerate(decoded.frames)]
        shard = out / f"footage-{prefix}.tar"
        write_tar(shard, members)
        yield shard, row


def _probe(video: Path) -> tuple[float, tuple[int, int]]:
    """Frame rate and upright (height, width) px of a video. Raises ClipError that says what is wrong with the file."""
    if not is_text(str(video)):
        raise ClipError(f"{str(video)!a}: the name is not UTF-8; rename it")
    try:
        with av.open(str(video.absolute())) as container:
            if not container.streams.video:
                raise ClipError(f"{video} has no video stream; expected a talking video")
            if not container.streams.audio:
                raise ClipError(f"{video} has no audio stream; expected a talking video")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            if not rate:
                raise ClipError(f"{video} does not say how many frames a second it has; encode it again")
            frame = next(container.decode(stream), None)
            if frame is None:
                raise ClipError(f"{video} holds no frame that can be decoded")
            return float(rate), _upright(frame).shape[:2]
    except av.FFmpegError as error:
        raise ClipError(f"{video} cannot be read as a video ({error.strerror})") from None


def _detect_shots(video: Path, fps: float) -> Iterator[Shot]:
    """The shots between the cuts that PySceneDetect finds, divided into equal pieces of at most MAX_SHOT_S."""
    from scenedetect import AdaptiveDetector, SceneManager, open_video  # extra [footage]

    stream, manager = open_video(str(video.absolute()), backend="pyav"), SceneManager()
    manager.add_detector(AdaptiveDetector(min_scene_len=max(int(0.4 * fps), 2)))
    manager.detect_scenes(stream)
    for start, stop in manager.get_scene_list(start_in_scene=True):
        low, high = round(start.seconds * fps), round(stop.seconds * fps)
        pieces = max(int(np.ceil((high - low) / (MAX_SHOT_S * fps))), 1)
        edges = np.linspace(low, high, pieces + 1).round().astype(int)
        yield from (Shot(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False))


@dataclass
class _DecodedShot:
    """Frames of a shot, and what the face detector finds in some of them."""

    shot: Shot
    frames: list[bytes] = field(default_factory=list)  # JPEG files
    faces: list[list[float]] = field(default_factory=list)  # frame index, then x, y, side of its largest face, px
    checked: int = 0  # frames that were searched for faces
    crowded: int = 0  # checked frames with a second face of similar size

    @property
    def reason(self) -> str:
        """Why the shot is refused, or an empty text."""
        if not self.frames:
            return "no frame can be decoded"
        if len(self.faces) < MIN_FACE_SHARE * self.checked:
            return f"a face in {len(self.faces)} of {self.checked} checked frames; expected {MIN_FACE_SHARE:.0%}"
        if self.crowded > 0.3 * self.checked:
            return f"more than one face in {self.crowded} of {self.checked} checked frames; expected one speaker"
        return ""


def _decode_shots(video: Path, shots: list[Shot], fps: float) -> Iterator[_DecodedShot]:
    """Decode every shot in turn, in one pass over the video."""
    pending, step = iter(_DecodedShot(shot) for shot in shots), max(round(_CHECK_INTERVAL_S * fps), 1)
    current = next(pending, None)
    with av.open(str(video.absolute())) as container:
        for index, picture in enumerate(_at_constant_rate(container, fps)):
            while current is not None and index >= current.shot.stop:
                yield current
                current = next(pending, None)
            if current is None:
                return
            if index < current.shot.start:
                continue
            current.frames.append(picture_bytes(picture, "JPEG", **JPEG_OPTIONS))
            if (index - current.shot.start) % step == 0:
                faces = find_faces(resize_for_detection(np.asarray(Image.fromarray(picture).convert("L"))))
                current.checked += 1
                current.crowded += len(faces) > 1 and faces[1, 2] > 0.6 * faces[0, 2]
                if len(faces):
                    # The detector saw the frame with its longer side at SIDE px.
                    face = (faces[0] * max(picture.shape[:2]) / SIDE).round(1).tolist()
                    current.faces.append([index - current.shot.start, *face])
    if current is not None:
        yield current
    yield from pending


def _at_constant_rate(container: InputContainer, fps: float) -> Iterator[np.ndarray]:
    """The pictures of a video at the times 0, 1/fps, 2/fps ... s of its own time stamps, upright, u8 [H, W, 3].

    A picture stays until the next one comes, as in a player: phones record at a rate that varies.
    """
    begin, index = (container.start_time or 0) / av.time_base, 0
    shown: np.ndarray | None = None
    for frame in container.decode(video=0):
        time = index / fps if frame.time is None else frame.time - begin
        while shown is not None and (index + 0.5) / fps <= time:
            yield shown
            index += 1
        shown = _upright(frame)
    if shown is not None:
        yield shown


def _upright(frame: VideoFrame) -> np.ndarray:
    """A frame as a player shows it, u8 [H, W, 3]: phones store how the picture is turned beside it."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _within(items: tuple[Timed, ...], start: float, stop: float) -> tuple[Timed, ...]:
    """What is spoken between start and stop (s), with times from the start of the shot."""
    return tuple(
        Timed(i.text, max(i.start, start) - start, min(i.end, stop) - start)
        for i in items
        if i.end > start and i.start < stop
    )


def _safe_name(name: str) -> str:
    """A file name without its ending, made of ASCII letters, digits and hyphens."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name.rsplit(".", 1)[0])[:60].strip("-") or "video"
