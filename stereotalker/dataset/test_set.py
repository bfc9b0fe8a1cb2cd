"""Stage `test_set`: voices, sentences and people by which a challenger is judged against the champion.

What was trained on, and what served to choose a number, must not be in it. `leaks` says what is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.dataset.build import IdentityJob, write_identity
from stereotalker.dataset.shards import read_summaries
from stereotalker.dataset.speech_corpus import (
    INDEX,
    PARTS,
    REJECTED,
    Utterance,
    align_recording,
    read_index,
    read_sentences,
    transcribed_recordings,
    words_only,
)
from stereotalker.errors import UserError
from stereotalker.params import AudioParams, BodyParams, PeopleParams, SpeechParams, TestSetParams, resolve
from stereotalker.records import save
from stereotalker.runtime.process_pool import pool
from stereotalker.store.digests import bytes_digest, tree_digest
from stereotalker.store.files import write_atomic

CARD = "card.json"  # version and digest of the test set
SPEECH, PEOPLE = "speech", "people"
_RATE, _PITCH, _RANGE = 165, 50, 55  # of all synthetic voices, see Voice


def build_test_set(
    folder: Path,
    params: TestSetParams,
    speech: SpeechParams,
    audio: AudioParams,
    body: BodyParams,
    people: PeopleParams,
    log=print,
) -> None:
    """Write `folder`/speech, `folder`/people/held_out and card.json.

    Raises UserError if its people are also for training, or if neither a sentence nor a recording can be used.
    """
    first, last = params.first_person, params.first_person + params.people
    if first < people.first_held_out + people.held_out:
        raise UserError(f"test_set.first_person {first}: the stage `people` uses numbers up to it; choose a larger one")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / SPEECH).mkdir(parents=True)
    rows, rejected = _speak(folder / SPEECH, params, speech, audio)
    recordings = [r for r in transcribed_recordings(speech) if r.speaker.startswith(tuple(params.speakers))]
    for recording in recordings if params.speakers else ():
        _, result = align_recording(folder, audio, replace(recording, part=SPEECH))  # the part is the folder's name
        rows.append(result) if isinstance(result, Utterance) else rejected.append(result)
    if not rows:
        raise UserError("test_set: no sentence and no recording can be used; see test_set.sentences")
    (folder / SPEECH / INDEX).write_text(_lines(asdict(row) for row in rows), encoding="utf-8")
    (folder / SPEECH / REJECTED).write_text(_lines(rejected), encoding="utf-8")
    shots = people.model_copy(update={"takes": params.takes})
    target = folder / PEOPLE / PARTS[1]
    target.mkdir(parents=True)
    jobs = [
        IdentityJob(target / f"people-{identity:06d}.tar", identity, body, shots, folder / SPEECH, ())
        for identity in range(first, last)
    ]
    with pool(__name__) as workers:
        for job, reason in zip(jobs, workers.map(write_identity, jobs), strict=True):
            if reason:
                raise UserError(f"test_set: person {job.identity} cannot be made: {reason}")
    card = {"version": params.version, "digest": tree_digest(folder), "utterances": len(rows), "people": params.people}
    write_atomic(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())
    log(f"test set: version {params.version}, {len(rows)} utterances, {params.people} people, {len(rejected)} refused")


def _speak(
    folder: Path, params: TestSetParams, speech: SpeechParams, audio: AudioParams
) -> tuple[list[Utterance], list[dict]]:
    """Speak every sentence, with one of the voices in turn. Returns the utterances, and rows of rejected.jsonl."""
    sentences, rejected = read_sentences(resolve(params.sentences), speech.languages)
    rows: list[Utterance] = []
    for language, texts in sorted(sentences.items()):
        for text in texts:
            variant = params.voices[len(rows) % len(params.voices)]
            spoken = from_script(text, Voice(language, variant, _RATE, _PITCH, _RANGE), audio.loudness)
            path = folder / f"synthetic-{len(rows):05d}.safetensors"
            save(spoken, path)
            voice = f"espeak-ng {language}+{variant}"
            rows.append(Utterance(path.name, "synthetic", language, voice, text, round(spoken.seconds, 3)))
    return rows, rejected


def leaks(test_set: Path, speech: Path, people: Path) -> list[str]:
    """What the test set shares with the data of training and of choice: sentences, voices, sounds and people.

    speech, people: folders of those stages, as far as they exist. Texts, voices and sound files are compared by their
    hashes. An empty list is as it should be.
    """
    test = _fingerprints(read_index(test_set / SPEECH))
    found = []
    for part in PARTS:
        if (speech / part / INDEX).is_file():
            other = _fingerprints(read_index(speech / part))
            found += [
                f"{part}: {len(shared)} {kind} of the test set, such as {min(test[kind][key] for key in shared)}"
                for kind in test
                if (shared := test[kind].keys() & other[kind].keys())
            ]
    numbers = _people(test_set / PEOPLE)
    for part in PARTS:
        if shared_people := numbers & _people(people, (part,)):
            found.append(f"{part}: people of the test set, such as number {min(shared_people)}")
    return found


def _fingerprints(rows: Iterable[Utterance]) -> dict[str, dict[str, str]]:
    """Hash -> text, for the sentences, the voices and the sources of utterances."""
    rows = list(rows)
    return {
        "sentences": {bytes_digest(words_only(row.text).encode()): row.text for row in rows if row.text},
        "voices": {bytes_digest(_voice(row).encode()): _voice(row) for row in rows},
        "sounds": {row.sha256: row.source for row in rows if row.sha256},
    }


def _voice(row: Utterance) -> str:
    """Who speaks: the speaker of a recording, or the variant of a synthetic voice, whatever its rate and pitch."""
    return row.voice.split(" rate ")[0].rpartition("+")[2] if row.kind == "synthetic" else row.voice


def _people(folder: Path, parts: tuple[str, ...] = PARTS) -> set[int]:
    """Numbers of the people in a data set."""
    return {s["identity"] for part in parts for _, takes in read_summaries(folder / part) for s in takes}


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
