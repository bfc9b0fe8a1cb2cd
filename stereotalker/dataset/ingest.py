"""A user's own footage -> shards: talking videos, with transcripts where there are some, cut into shots of one speaker each.

The layout is that of the synthetic shards as far as footage goes: JSON, sound, frames of one camera; faces instead of exact labels. A
fitted body joins them when the avatar package can fit one. Nothing is kept without a word on whose consent covers it.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

from stereotalker.audio.forced_alignment import align
from stereotalker.dataset.shards import FULL_DISK, JPEG, picture_bytes, try_writing, wav_bytes, write_tar
from stereotalker.dataset.speech_corpus import REJECTED
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.media.faces import SIDE, find_faces, fitted
from stereotalker.records import SAMPLE_RATE, Timed

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v"}
SHORTEST_S, LONGEST_S = 0.8, 20.0  # of a shot that is kept; longer ones are cut
FACES = 0.8  # least share of looked-at frames with a face
_LOOK_S = 0.2  # between frames that are searched for faces


@dataclass(frozen=True)
class Shot:
    """A stretch of a video without a cut, [start, stop) in frames."""

    start: int
    stop: int


@dataclass(frozen=True)
class Ingested:
    """What became of a folder."""

    shards: list[Path]
    shots: int
    seconds: float
    rejected: list[dict]


def ingest(folder: Path, out: Path, consent: str, loudness: float, log: Callable[[str], None] = print) -> Ingested:
    """Turn every video below `folder` into shards in `out`, one a shot. What is refused goes to rejected.jsonl, the rest goes on.

    consent: on whose permission the people in it may be used; kept with every shot. Raises UserError where there is nothing to read.
    """
    if not consent.strip():
        raise UserError(
            "footage of real people needs their consent: say whose and for what with --consent, e.g. 'release forms 12-30, training and demos'"
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected one with videos ({', '.join(sorted(VIDEOS))})")
    videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS)
    if not videos:
        raise UserError(f"{folder} holds no video; expected files like take.mp4 ({', '.join(sorted(VIDEOS))})")
    table = _table(folder)
    out.mkdir(parents=True, exist_ok=True)
    rejected, shards, seconds = [], [], 0.0
    for video in videos:
        name = video.relative_to(folder).as_posix()
        try:
            for shard, row in _ingest_video(video, name, _transcript(video, name, table), out, consent, loudness):
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
            if error.errno not in FULL_DISK:
                raise
            rejected.append({"file": name, "reason": f"{out} cannot be written: {error.strerror}"})
        else:
            continue
        log(f"{name}: refused: {rejected[-1]['reason']}")
    try_writing(out / REJECTED, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected), log)
    return Ingested(shards, len(shards), seconds, rejected)


def _table(folder: Path) -> dict[str, str]:
    """Texts by file name, from transcripts.csv (file, text) where there is one."""
    table = folder / "transcripts.csv"
    if not table.is_file():
        return {}
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"file", "text"} <= set(rows.fieldnames or ()):
                raise UserError(
                    f"{table}: expected columns file and text, found {', '.join(rows.fieldnames or ['none'])}"
                )
            return {row["file"]: row["text"] for row in rows}
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text; save it as UTF-8") from None


def _transcript(video: Path, name: str, table: dict[str, str]) -> str:
    """The text beside a video, or its row of the table; empty without. Raises UserError for a text nobody can read."""
    beside = video.with_suffix(".txt")
    if not beside.is_file():
        return table.get(name) or table.get(video.name) or ""
    try:
        return beside.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{beside.name} is not UTF-8 text; save it as UTF-8") from None


def _ingest_video(
    video: Path, name: str, text: str, out: Path, consent: str, loudness: float
) -> Iterator[tuple[Path | None, dict]]:
    """Every shot's shard and row; None and the reason where the shot is refused."""
    fps, size = _probe(video)
    sound, level = audio_files.normalise(audio_files.decode(video), loudness)
    if not np.isfinite(level):
        raise ClipError(f"{video} is silent; expected speech")
    samples = audio_files.to_speech_samples(sound)
    aligned = align(samples, text) if text.strip() else None
    note = (
        "no transcript"
        if not text.strip()
        else ""
        if aligned
        else "the transcript cannot be aligned: another text, or digits, letters or words that pocketsphinx's English does not know"
    )
    key = f"{_safe(name)}-{_digest(video)[:12]}"
    for number, film in enumerate(_film(video, list(_shots(video, fps)), fps)):
        start, seconds = film.shot.start / fps, (film.shot.stop - film.shot.start) / fps
        reason = film.reason or (
            "" if seconds >= SHORTEST_S else f"lasts {seconds:.2f} s; expected at least {SHORTEST_S} s"
        )
        if reason:
            yield None, {"file": name, "start": round(start, 3), "reason": reason}
            continue
        words, phonemes = (_within(items, start, start + seconds) for items in aligned) if aligned else ((), ())
        row = {
            "kind": "footage", "file": name, "start": start, "seconds": seconds, "fps": fps, "frames": len(film.frames), "cameras": 1, "size": list(size), "consent": consent,
            "loudness": level, "text": text, "alignment": note, "words": [list(asdict(w).values()) for w in words], "phonemes": [list(asdict(p).values()) for p in phonemes],
            "faces": film.faces,
        }  # fmt: skip
        prefix, cut = f"{key}-{number}", samples[round(start * SAMPLE_RATE) : round((start + seconds) * SAMPLE_RATE)]
        members = [(f"{prefix}.json", json.dumps(row, ensure_ascii=False).encode()), (f"{prefix}.wav", wav_bytes(cut))]
        members += [(f"{prefix}.c0.t{t:04d}.jpg", frame) for t, frame in enumerate(film.frames)]
        shard = out / f"footage-{prefix}.tar"
        write_tar(shard, members)
        yield shard, row


def _probe(video: Path) -> tuple[float, tuple[int, int]]:
    """Frames a second and (height, width). Raises ClipError that says what is wrong with the file."""
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise ClipError(f"{video} has no video stream; expected a talking video")
            if not container.streams.audio:
                raise ClipError(f"{video} has no audio stream; expected a talking video")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            if not rate:
                raise ClipError(f"{video} does not say how many frames a second it has; encode it again")
            return float(rate), (stream.height, stream.width)
    except av.FFmpegError as error:
        raise ClipError(f"{video} cannot be read as a video ({error.strerror})") from None


def _shots(video: Path, fps: float) -> Iterator[Shot]:
    """The video cut at its cuts (PySceneDetect), and longer shots into pieces of LONGEST_S."""
    from scenedetect import AdaptiveDetector, SceneManager, open_video  # extra [footage]

    film, manager = open_video(str(video), backend="pyav"), SceneManager()
    manager.add_detector(AdaptiveDetector(min_scene_len=max(int(0.4 * fps), 2)))
    manager.detect_scenes(film)
    for start, stop in manager.get_scene_list(start_in_scene=True):
        low, high = round(start.seconds * fps), round(stop.seconds * fps)
        pieces = max(int(np.ceil((high - low) / (LONGEST_S * fps))), 1)
        edges = np.linspace(low, high, pieces + 1).round().astype(int)
        yield from (Shot(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False))


@dataclass
class _Film:
    """A shot as it is decoded."""

    shot: Shot
    frames: list[bytes] = field(default_factory=list)  # JPEG
    faces: list[list[float]] = field(default_factory=list)  # frame, x, y, side in px of the frame
    looked: int = 0
    crowded: int = 0

    @property
    def reason(self) -> str:
        """Why the shot is refused; empty where it is not."""
        if not self.frames:
            return "no frame can be decoded"
        if len(self.faces) < FACES * self.looked:
            return f"a face in {len(self.faces)} of {self.looked} looked-at frames; expected {FACES:.0%}"
        if self.crowded > 0.3 * self.looked:
            return f"more than one face in {self.crowded} of {self.looked} looked-at frames; expected one speaker"
        return ""


def _film(video: Path, shots: list[Shot], fps: float) -> Iterator[_Film]:
    """Every shot in turn, in one pass over the video."""
    films, step = iter(_Film(shot) for shot in shots), max(round(_LOOK_S * fps), 1)
    film = next(films, None)
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            while film is not None and index >= film.shot.stop:
                yield film
                film = next(films, None)
            if film is None:
                return
            if index < film.shot.start:
                continue
            picture = frame.to_ndarray(format="rgb24")
            film.frames.append(picture_bytes(picture, "JPEG", **JPEG))
            if (index - film.shot.start) % step == 0:
                found = find_faces(fitted(np.asarray(Image.fromarray(picture).convert("L"))))
                film.looked += 1
                film.crowded += len(found) > 1 and found[1, 2] > 0.6 * found[0, 2]
                if len(found):
                    film.faces.append(
                        [index - film.shot.start, *(found[0] * max(picture.shape[:2]) / SIDE).round(1).tolist()]
                    )
    if film is not None:
        yield film
    yield from films


def _within(items: tuple[Timed, ...], start: float, stop: float) -> tuple[Timed, ...]:
    """What is spoken between start and stop, in the shot's own time."""
    return tuple(
        Timed(i.text, max(i.start, start) - start, min(i.end, stop) - start)
        for i in items
        if i.end > start and i.start < stop
    )


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name.rsplit(".", 1)[0])[:60].strip("-") or "video"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
