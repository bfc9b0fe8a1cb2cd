"""Stage `speech`: utterances with word and phoneme times, spoken by espeak-ng in many languages, and real recordings aligned with their text.

The two parts, train and held_out, share no voice and no sentence. What cannot be used is written to rejected.jsonl, and the rest goes on.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import unicodedata
import zlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stereotalker.audio.augmentation import CODECS, through_codec
from stereotalker.audio.forced_alignment import align, transcribe
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice, speak_alone
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.params import AudioParams, SpeechParams, resolve
from stereotalker.records import Speech, load, save
from stereotalker.runtime.process_pool import pool

PARTS = ("train", "held_out")
INDEX, REJECTED = "utterances.jsonl", "rejected.jsonl"
# Formants and timbre. Breathy voices (f2, f3, f5) draw noise that is never the same twice, so the data does without them.
_VARIANTS = ("", "m1", "m2", "m3", "m4", "m7", "f1", "f4", "belinda", "aunty", "steph")
_HELD_OUT_VARIANTS = ("m5", "m6", "croak", "linda")
_SOUNDS = (".flac", ".wav", ".mp3", ".ogg", ".m4a")
# Scripts a language's voice reads, by the first word of its letters' Unicode names; others read Latin letters.
_SCRIPTS = {
    "ru": {"CYRILLIC"}, "el": {"GREEK"}, "hi": {"DEVANAGARI"}, "ar": {"ARABIC"}, "ko": {"HANGUL"}, "cmn": {"CJK"},
    "ja": {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
}  # fmt: skip


@dataclass(frozen=True)
class Utterance:
    """A row of utterances.jsonl: where a Speech comes from."""

    file: str
    kind: str  # synthetic, real
    language: str
    voice: str  # espeak-ng voice with rate and pitch, or the recording's speaker
    text: str
    seconds: float
    codec: str = ""  # that it went through
    source: str = ""  # of a recording


def build_corpus(
    folder: Path, params: SpeechParams, audio: AudioParams, log=print, processes: int | None = None
) -> None:
    """Write `folder`/{train,held_out}/*.safetensors (Speech records), their index, and what was refused. Bytes depend on the seed alone."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    sentences, rejected = read_sentences(resolve(params.sentences), params.languages)
    if params.texts:
        sentences.setdefault("en-us", []).extend(read_texts(resolve(params.texts)))
    recordings = _recordings(params)
    tested = {_folded(r.text) for r in recordings if r.part == "held_out"}
    rows: dict[str, list[Utterance]] = {part: [] for part in PARTS}
    with pool(processes) as workers:
        jobs = [_script(index, sentences, tested, params) for index in range(params.utterances)]
        made = [
            *workers.map(partial(_synthetic, folder, params, audio), jobs, chunksize=8),
            *workers.map(partial(_recorded, folder, audio), recordings, chunksize=2),
        ]
    for part, utterance in made:
        rows[part].append(utterance) if isinstance(utterance, Utterance) else rejected.append(utterance)
    for part in PARTS:
        (folder / part / INDEX).write_text(_lines(asdict(row) for row in rows[part]))
    (folder / REJECTED).write_text(_lines(rejected))
    log(
        f"speech: {len(rows['train'])} utterances to train on, {len(rows['held_out'])} held out, {len(rejected)} refused (see {REJECTED})"
    )


def read_corpus(folder: Path) -> list[Speech]:
    """Every Speech of a folder, in the order of names."""
    return [load(Speech, path) for path in sorted(folder.glob("*.safetensors"))]


def read_index(folder: Path) -> list[Utterance]:
    """Where every Speech of a folder comes from, in the order of names. Raises UserError where there is no corpus."""
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder / INDEX} not found; run `stereotalker stage speech` first")
    rows = [Utterance(**json.loads(line)) for line in (folder / INDEX).read_text().splitlines()]
    return sorted(rows, key=lambda row: row.file)


def read_sentences(path: Path, languages: list[str]) -> tuple[dict[str, list[str]], list[dict]]:
    """Sentences by language, one a line, from a folder of LANGUAGE.txt files (or one file: en-us); and what was refused, with reasons.

    Raises UserError where nothing is left to speak.
    """
    if not path.exists():
        raise UserError(f"speech.sentences: {path} not found; expected a folder with files like de.txt, or a text file")
    found: dict[str, list[str]] = {}
    rejected: list[dict] = []
    for file in sorted(path.glob("*.txt")) if path.is_dir() else [path]:
        language = file.stem if path.is_dir() else "en-us"
        if language not in languages:
            rejected.append({"file": file.name, "reason": f"language {language!r} is not in speech.languages"})
            continue
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            text, reason = _readable(line, language)
            if reason:
                rejected.append({"file": file.name, "line": number, "reason": reason})
            elif text:
                found.setdefault(language, []).append(text)
    if not found:
        raise UserError(
            f"speech.sentences: {path} holds no sentence in {', '.join(languages)}; expected files like de.txt, one sentence a line"
        )
    return found, rejected


def _readable(line: bytes, language: str) -> tuple[str, str]:
    """The text of a line, and why it cannot be spoken ('' where it can)."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return "", "not UTF-8 text"
    letters = [c for c in text if c.isalpha()]
    if text and not letters and not any(c.isdigit() for c in text):
        return "", "no letters or digits"
    scripts = {unicodedata.name(c, "UNKNOWN").split()[0] for c in letters}
    strange = scripts - _SCRIPTS.get(language, {"LATIN"}) - {"MODIFIER", "COMBINING", "FULLWIDTH", "IDEOGRAPHIC"}
    return (
        text,
        f"written in {', '.join(sorted(strange)).lower()} letters, which the voice {language!r} does not read"
        if strange
        else "",
    )


def read_texts(folder: Path) -> list[str]:
    """English sentences of every .txt file of a folder, those of 3 to 16 plain words, in the order of names. Raises UserError."""
    if not folder.is_dir():
        raise UserError(
            f"speech.texts: {folder} not found; expected a folder of .txt files, one sentence a line, or null"
        )
    lines = (
        line.strip()
        for file in sorted(folder.glob("*.txt"))
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    return [line for line in lines if 3 <= len(line.split()) <= 16 and re.fullmatch(r"[A-Za-z' ,.!?’;:-]+", line)]


def is_held_out(text: str) -> bool:
    """One sentence in nine is only ever held out, whoever speaks it."""
    return zlib.crc32(_folded(text).encode()) % 9 == 0


def _folded(text: str) -> str:
    """A sentence whatever its case and spaces."""
    return " ".join(text.lower().split())


def _part(index: int, params: SpeechParams) -> str:
    return "held_out" if index >= params.utterances - params.held_out else "train"


@dataclass(frozen=True)
class _Script:
    """What a synthetic voice is to say."""

    index: int
    language: str
    text: str
    voice: Voice
    codec: str


def _script(index: int, sentences: dict[str, list[str]], tested: set[str], params: SpeechParams) -> _Script | None:
    """English is spoken as often as all other languages together. None where no sentence is left for the part."""
    rng = np.random.default_rng([params.seed, index])
    held_out = _part(index, params) == "held_out"
    languages = sorted(
        lang
        for lang, texts in sentences.items()
        if any(is_held_out(t) == held_out and (held_out or _folded(t) not in tested) for t in texts)
    )
    if not languages:
        return None
    english = [lang for lang in languages if lang.startswith("en")]
    language = (
        english[rng.integers(len(english))]
        if english and rng.random() < params.english
        else languages[rng.integers(len(languages))]
    )
    texts = sentences[language]
    while is_held_out(text := texts[rng.integers(len(texts))]) != held_out or (
        not held_out and _folded(text) in tested
    ):
        continue
    accent = "en-gb" if language == "en-us" and "en-gb" in params.languages and rng.random() < 0.4 else language
    variants = _HELD_OUT_VARIANTS if held_out else _VARIANTS
    voice = Voice(
        accent,
        str(variants[rng.integers(len(variants))]),
        *(int(rng.integers(a, b)) for a, b in ((125, 215), (25, 75), (30, 80))),
    )
    return _Script(
        index, accent, text, voice, str(CODECS[rng.integers(len(CODECS))]) if rng.random() < params.codecs else ""
    )


def _synthetic(
    folder: Path, params: SpeechParams, audio: AudioParams, script: _Script | None
) -> tuple[str, Utterance | dict]:
    if script is None:
        return "train", {"file": "synthetic", "reason": "no sentence is left for this part"}
    name, part, voice = f"synthetic-{script.index:05d}", _part(script.index, params), script.voice
    try:
        speech = from_script(script.text, voice, audio.loudness, speak_alone)[0]
    except ClipError as error:
        return part, {"file": name, "language": script.language, "reason": str(error)}
    told = f"espeak-ng {script.language}+{voice.variant or 'plain'} rate {voice.rate} pitch {voice.pitch}"
    return part, _keep(
        speech,
        folder / part / f"{name}.safetensors",
        script.codec,
        kind="synthetic",
        language=script.language,
        voice=told,
        text=script.text,
    )


def _keep(speech: Speech, path: Path, codec: str, **origin) -> Utterance:
    if codec:
        speech = Speech(
            np.clip(through_codec(speech.samples, codec), -1, 1), speech.loudness, speech.words, speech.phonemes
        )
    save(speech, path)
    return Utterance(file=path.name, seconds=round(speech.seconds, 3), codec=codec, **origin)


@dataclass(frozen=True)
class _Recording:
    """A file somebody spoke into. text: "" where nobody wrote it down."""

    index: int
    path: Path
    shown: str
    speaker: str
    language: str
    text: str
    part: str


def _recordings(params: SpeechParams) -> list[_Recording]:
    """Those that transcripts.csv names (path, speaker, lang, text), and the English ones under `untranscribed`, which are trained on only.

    Speakers whose names begin with one of `held_out_speakers` are held out, as is every language but English: they test, and no more.
    """
    found = []
    if params.recordings:
        source = resolve(params.recordings)
        table = source / "transcripts.csv"
        if not table.is_file():
            raise UserError(
                f"speech.recordings: {table} not found; expected columns path, speaker, lang, text; set it to null to do without"
            )
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                aside = row["speaker"].startswith(tuple(params.held_out_speakers)) or not row[
                    "lang"
                ].lower().startswith("en")
                part = "held_out" if aside else "train"
                found.append(
                    _Recording(
                        len(found),
                        source.parent / row["path"],
                        row["path"],
                        row["speaker"],
                        row["lang"].lower(),
                        row["text"].strip(),
                        part,
                    )
                )
    if params.untranscribed:
        source = resolve(params.untranscribed)
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SOUNDS)
        if not files:
            raise UserError(
                f"speech.untranscribed: {source} holds no {', '.join(_SOUNDS)}; expected a folder of English recordings, or null"
            )
        found += [
            _Recording(len(found) + k, path, str(path.relative_to(source)), path.parent.name, "en", "", "train")
            for k, path in enumerate(files)
        ]
    return found


def _recorded(folder: Path, audio: AudioParams, recording: _Recording) -> tuple[str, Utterance | dict]:
    reason, times = "", None
    if recording.text and recording.part == "train" and is_held_out(recording.text):
        reason = "its sentence belongs to the other part"
    else:
        try:
            sound, level = audio_files.normalise(audio_files.decode(recording.path), audio.loudness)
            samples = audio_files.to_speech_samples(sound)
            times = align(samples, recording.text, recording.language) if recording.text else transcribe(samples)
            reason = "" if times else "pocketsphinx cannot align it: another text, or nothing it hears"
        except ClipError as error:
            reason = str(error)
    if reason:
        return recording.part, {"file": recording.shown, "reason": reason}
    path = folder / recording.part / f"real-{recording.index:05d}.safetensors"
    return recording.part, _keep(
        Speech(samples, level, *times),
        path,
        "",
        kind="real",
        language=recording.language,
        voice=recording.speaker,
        text=recording.text,
        source=recording.shown,
    )


def _lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
