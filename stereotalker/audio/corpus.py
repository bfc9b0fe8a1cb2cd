"""Stage `speech`: utterances with word and phoneme times, spoken by espeak-ng in many languages, and real recordings aligned with their text.

The two parts, train and held_out, share no voice and no sentence. What cannot be used is written to rejected.jsonl, and the rest goes on.
"""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stereotalker.audio import io
from stereotalker.audio.align import align
from stereotalker.audio.degrade import CODECS, through_codec
from stereotalker.audio.speak import Voice, speak_alone
from stereotalker.audio.speech import from_script
from stereotalker.errors import ClipError, UserError
from stereotalker.params import AudioParams, SpeechParams, resolve
from stereotalker.processes import pool
from stereotalker.records import Speech, load, save

PARTS = ("train", "held_out")
INDEX, REJECTED = "utterances.jsonl", "rejected.jsonl"
# Formants and timbre. Breathy voices (f2, f3, f5) draw noise that is never the same twice, so the data does without them.
_VARIANTS = ("", "m1", "m2", "m3", "m4", "m7", "f1", "f4", "belinda", "aunty", "steph")
_HELD_OUT_VARIANTS = ("m5", "m6", "croak", "linda")
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


def build_corpus(folder: Path, params: SpeechParams, audio: AudioParams, log=print, processes: int | None = None) -> None:
    """Write `folder`/{train,held_out}/*.safetensors (Speech records), their index, and what was refused. Bytes depend on the seed alone."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    sentences, rejected = read_sentences(resolve(params.sentences), params.languages)
    rows: dict[str, list[Utterance]] = {part: [] for part in PARTS}
    with pool(processes) as workers:
        jobs = [(index, sentences, params, audio, folder) for index in range(params.utterances)]
        for index, made in enumerate(workers.map(_synthetic, *zip(*jobs, strict=True), chunksize=8)):
            if isinstance(made, Utterance):
                rows[_part(index, params)].append(made)
            else:
                rejected.append(made)
    if params.recordings:
        for part, made in _recordings(folder, resolve(params.recordings), audio, {_folded(text) for texts in sentences.values() for text in texts}):
            rows[part].append(made) if isinstance(made, Utterance) else rejected.append(made)
    for part in PARTS:
        (folder / part / INDEX).write_text(_lines(asdict(row) for row in rows[part]))
    (folder / REJECTED).write_text(_lines(rejected))
    log(f"speech: {len(rows['train'])} utterances to train on, {len(rows['held_out'])} held out, {len(rejected)} refused (see {REJECTED})")


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
        raise UserError(f"speech.sentences: {path} holds no sentence in {', '.join(languages)}; expected files like de.txt, one sentence a line")
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
    return text, f"written in {', '.join(sorted(strange)).lower()} letters, which the voice {language!r} does not read" if strange else ""


def is_held_out(text: str) -> bool:
    """One sentence in nine is only ever held out, whoever speaks it."""
    return zlib.crc32(_folded(text).encode()) % 9 == 0


def _folded(text: str) -> str:
    """A sentence whatever its case and spaces."""
    return " ".join(text.lower().split())


def _part(index: int, params: SpeechParams) -> str:
    return "held_out" if index >= params.utterances - params.held_out else "train"


def _synthetic(index: int, sentences: dict[str, list[str]], params: SpeechParams, audio: AudioParams, folder: Path) -> Utterance | dict:
    """Speak one utterance; English is spoken as often as all other languages together."""
    rng = np.random.default_rng([params.seed, index])
    held_out = _part(index, params) == "held_out"
    pools = {lang: [t for t in texts if is_held_out(t) == held_out] for lang, texts in sentences.items()}
    pools = {lang: texts for lang, texts in pools.items() if texts}
    languages = sorted(pools)
    if not languages:
        return {"file": f"synthetic-{index:05d}", "reason": "no sentence is left for this part"}
    english = [lang for lang in languages if lang.startswith("en")]
    language = english[rng.integers(len(english))] if english and rng.random() < params.english else languages[rng.integers(len(languages))]
    text = pools[language][rng.integers(len(pools[language]))]
    accent = "en-gb" if language == "en-us" and "en-gb" in params.languages and rng.random() < 0.4 else language
    variants = _HELD_OUT_VARIANTS if held_out else _VARIANTS
    voice = Voice(accent, str(variants[rng.integers(len(variants))]), *(int(rng.integers(a, b)) for a, b in ((125, 215), (25, 75), (30, 80))))
    try:
        speech = from_script(text, voice, audio.loudness, speak_alone)[0]
    except ClipError as error:
        return {"file": f"synthetic-{index:05d}", "language": accent, "reason": str(error)}
    codec = str(CODECS[rng.integers(len(CODECS))]) if rng.random() < params.codecs else ""
    return _keep(speech, folder / _part(index, params) / f"synthetic-{index:05d}.safetensors", codec, kind="synthetic", language=accent, voice=f"espeak-ng {accent}+{voice.variant or 'plain'} rate {voice.rate} pitch {voice.pitch}", text=text)


def _keep(speech: Speech, path: Path, codec: str, **origin) -> Utterance:
    if codec:
        speech = Speech(np.clip(through_codec(speech.samples, codec), -1, 1), speech.loudness, speech.words, speech.phonemes)
    save(speech, path)
    return Utterance(file=path.name, seconds=round(speech.seconds, 3), codec=codec, **origin)


def _recordings(folder: Path, source: Path, audio: AudioParams, sentences: set[str]) -> Iterator[tuple[str, Utterance | dict]]:
    """Recordings named by transcripts.csv (path, speaker, lang, text) that can be aligned.

    Two in five of the speakers whose sentences nobody else reads are held out: the others would take their readers' takes out of training.
    """
    table = source / "transcripts.csv"
    if not table.is_file():
        raise UserError(f"speech.recordings: {table} not found; expected columns path, speaker, lang, text; set it to null to do without")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    readers: dict[str, set[str]] = {}
    for row in rows:
        readers.setdefault(_folded(row["text"]), set()).add(row["speaker"])
    sharing = {speaker for speakers in readers.values() if len(speakers) > 1 for speaker in speakers}
    aside = {row["speaker"] for row in rows if row["speaker"] not in sharing and zlib.crc32(row["speaker"].encode()) % 5 < 2}
    for index, row in enumerate(rows):
        part = "held_out" if row["speaker"] in aside else "train"
        reason = ""
        if not row["text"].strip():
            reason = "no text"
        elif _folded(row["text"]) in sentences and is_held_out(row["text"]) != (part == "held_out"):
            reason = "its sentence belongs to the other part"
        elif not row["lang"].startswith("en"):
            reason = f"no aligner for {row['lang']} (pocketsphinx brings English)"
        if not reason:
            try:
                sound, level = io.normalise(io.decode(table.parent.parent / row["path"]), audio.loudness)
                samples = io.to_speech_samples(sound)
                times = align(samples, row["text"])
                reason = "" if times else "pocketsphinx cannot align it: words unknown to its dictionary, or another text"
            except ClipError as error:
                reason = str(error)
        if reason:
            yield part, {"file": row["path"], "reason": reason}
            continue
        yield part, _keep(Speech(samples, level, *times), folder / part / f"real-{index:05d}.safetensors", "", kind="real", language=row["lang"].lower(), voice=row["speaker"], text=row["text"], source=row["path"])


def _lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
