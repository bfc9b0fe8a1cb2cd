"""Stage `speech`: utterances with word and phoneme times, synthetic ones in many languages and real recordings.

espeak-ng speaks the synthetic ones; recordings are aligned with their text. The two parts, train and held_out, share no
voice and no sentence. What cannot be used is written to rejected.jsonl, and the run goes on.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
import shutil
import zlib
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from stereotalker.audio.augmentation import CODECS, through_codec
from stereotalker.audio.letters import unreadable_scripts
from stereotalker.audio.recognition import Recognizer, find_recognizer
from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.errors import ClipError, UserError
from stereotalker.params import AudioParams, SpeechParams, resolve
from stereotalker.records import Speech, load, save
from stereotalker.runtime.process_pool import pool
from stereotalker.store.digests import file_digest

PARTS = ("train", "held_out")
INDEX, REJECTED, TRANSCRIPTS = "utterances.jsonl", "rejected.jsonl", "transcripts.csv"
# espeak-ng voice variants, which change formants and timbre. The breathy ones (f2, f3, f5) are left out, because their
# noise is different every time and the corpus must be reproducible.
_VARIANTS = ("", "m1", "m2", "m3", "m4", "m7", "f1", "f4", "belinda", "aunty", "steph")
_HELD_OUT_VARIANTS = ("m5", "m6", "croak", "linda")
AUDIO_ENDINGS = (".flac", ".wav", ".mp3", ".ogg", ".m4a")
_LIKE = 0.7  # share of equal words from which on a recognized text counts as a sentence that is known
_HELD_OUT_DIVISOR = 9  # one sentence in so many is held out


@dataclass(frozen=True)
class Utterance:
    """A row of utterances.jsonl: where a Speech comes from."""

    file: str  # name of the Speech record
    kind: str  # synthetic, real
    language: str
    voice: str  # espeak-ng voice with rate and pitch, or the recording's speaker
    text: str
    seconds: float
    codec: str = ""  # codec that the sound was encoded and decoded with, or empty
    source: str = ""  # path of a recording, or empty
    sha256: str = ""  # of that file


def build_corpus(
    folder: Path,
    params: SpeechParams,
    audio: AudioParams,
    log=print,
    processes: int | None = None,
    test: Path | None = None,
) -> None:
    """Write `folder`/{train,held_out}/*.safetensors (Speech records), their index, and rejected.jsonl.

    test: folder of the test set's speech, whose speakers and sentences are left out. `train` is trained on, `held_out`
    serves the choice of numbers.

    The bytes depend on parameters and inputs alone, not on the number of processes. Raises UserError where sentences,
    texts or recordings that params.yaml names are missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    sentences, rejected = read_sentences(resolve(params.sentences), params.languages)
    if params.texts:
        sentences.setdefault("en-us", []).extend(read_texts(resolve(params.texts)))
    tested = read_index(test) if test else []
    test_sounds = {row.sha256 for row in tested if row.sha256}
    test_voices, test_texts = {row.voice for row in tested}, {words_only(row.text) for row in tested}
    found = _recordings(params)
    rejected += [
        {"file": r.display_path, "reason": "its sentence belongs to the test set"}
        for r in found
        if r.speaker not in test_voices and words_only(r.text) in test_texts
    ]
    recordings = [
        r
        for r in found
        if r.speaker not in test_voices
        and words_only(r.text) not in test_texts
        and not (test_sounds and r.path.is_file() and file_digest(r.path) in test_sounds)
    ]
    sentences = {
        language: kept
        for language, texts in sentences.items()
        if (kept := [text for text in texts if words_only(text) not in test_texts])
    }
    held_out_texts = {normalized(r.text) for r in recordings if r.part == "held_out"}
    rows: dict[str, list[Utterance]] = {part: [] for part in PARTS}
    with pool(__name__, processes) as workers:
        scripts = [_draw_script(index, sentences, held_out_texts, params) for index in range(params.utterances)]
        results = [
            *workers.map(partial(_synthesize, folder, params, audio), scripts, chunksize=8),
            *workers.map(partial(align_recording, folder, audio), recordings, chunksize=2),
        ]
    for part, result in results:
        rows[part].append(result) if isinstance(result, Utterance) else rejected.append(result)
    # Only now is it known what recordings without a text say.
    kept_apart = [text.split() for text in test_texts | {words_only(row.text) for row in rows["held_out"]}]
    given_texts = {recording.text for recording in recordings}
    for row in [row for row in rows["train"] if row.kind == "real" and row.text not in given_texts]:
        if not _is_like_any(row.text, kept_apart):
            continue
        rows["train"].remove(row)
        (folder / "train" / row.file).unlink()
        rejected.append({"file": row.source, "reason": "its sentence belongs to the other part"})
    for part in PARTS:
        (folder / part / INDEX).write_text(_lines(asdict(row) for row in rows[part]), encoding="utf-8")
    (folder / REJECTED).write_text(_lines(rejected), encoding="utf-8")
    log(
        f"speech: {len(rows['train'])} utterances to train on, {len(rows['held_out'])} held out, "
        f"{len(rejected)} refused (see {REJECTED})"
    )


def read_corpus(folder: Path) -> list[Speech]:
    """Every Speech of a part's folder, in the order of names."""
    return [load(Speech, path) for path in sorted(folder.glob("*.safetensors"))]


def read_index(folder: Path) -> list[Utterance]:
    """The Utterance of every Speech of a part's folder, in the order of names. Raises UserError without a corpus."""
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder / INDEX} not found; run `stereotalker stage speech` first")
    rows = [Utterance(**json.loads(line)) for line in (folder / INDEX).read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row.file)


def read_sentences(path: Path, languages: list[str]) -> tuple[dict[str, list[str]], list[dict]]:
    """Sentences by language, and rows of rejected.jsonl for lines that cannot be spoken.

    path: a folder of files like de.txt with one sentence a line, or one such file, which is read as en-us. Raises
    UserError where no sentence is left.
    """
    if not path.exists():
        raise UserError(f"speech.sentences: {path} not found; expected a folder with files like de.txt, or a text file")
    sentences: dict[str, list[str]] = {}
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
                sentences.setdefault(language, []).append(text)
    if not sentences:
        raise UserError(
            f"speech.sentences: {path} holds no sentence in {', '.join(languages)}; "
            "expected files like de.txt, one sentence a line"
        )
    return sentences, rejected


def _readable(line: bytes, language: str) -> tuple[str, str]:
    """The text of a line, and why it cannot be spoken, or '' where it can."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return "", "not UTF-8 text"
    if text and not any(c.isalnum() for c in text):
        return "", "no letters or digits"
    unreadable = unreadable_scripts(text, language)
    if not unreadable:
        return text, ""
    names = ", ".join(sorted(unreadable)).lower()
    return text, f"written in {names} letters, which the voice {language!r} does not read"


def read_texts(folder: Path) -> list[str]:
    """English sentences of 3 to 16 plain words from every .txt file of a folder, in the order of names.

    Other lines are left out. Raises UserError where the folder does not exist.
    """
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
    """Whether a sentence belongs to the held-out part, whoever speaks it; one sentence in nine does."""
    return zlib.crc32(normalized(text).encode()) % _HELD_OUT_DIVISOR == 0


def words_only(text: str) -> str:
    """A sentence without differences of case, punctuation and white space, to find it again in other hands."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _is_like_any(text: str, sentences: list[list[str]]) -> bool:
    """Whether most words of a recognized text are those of one of the sentences: some are heard wrongly."""
    words = words_only(text).split()
    return any(difflib.SequenceMatcher(None, words, other, False).ratio() > _LIKE for other in sentences)


def normalized(text: str) -> str:
    """A sentence without differences of case and white space."""
    return " ".join(text.lower().split())


def _part(index: int, params: SpeechParams) -> str:
    """The part of a synthetic utterance: the last `held_out` of all are held out."""
    return "held_out" if index >= params.utterances - params.held_out else "train"


@dataclass(frozen=True)
class _Script:
    """What a synthetic voice is to say."""

    index: int
    language: str
    text: str
    voice: Voice
    codec: str  # codec to encode and decode the sound with, or empty


def _draw_script(
    index: int, sentences: dict[str, list[str]], held_out_texts: set[str], params: SpeechParams
) -> _Script | None:
    """Draw language, sentence, voice and codec of a synthetic utterance. None where the part has no sentence left.

    English is drawn with the probability params.english. held_out_texts: normalized texts of held-out recordings, which
    no training utterance may have.
    """
    rng = np.random.default_rng([params.seed, index])
    held_out = _part(index, params) == "held_out"
    languages = sorted(
        lang
        for lang, texts in sentences.items()
        if any(is_held_out(t) == held_out and (held_out or normalized(t) not in held_out_texts) for t in texts)
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
        not held_out and normalized(text) in held_out_texts
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


def _synthesize(
    folder: Path, params: SpeechParams, audio: AudioParams, script: _Script | None
) -> tuple[str, Utterance | dict]:
    """Speak and save a script. Returns the part, and the utterance or its row of rejected.jsonl."""
    if script is None:
        return "train", {"file": "synthetic", "reason": "no sentence is left for this part"}
    name, part, voice = f"synthetic-{script.index:05d}", _part(script.index, params), script.voice
    try:
        speech = from_script(script.text, voice, audio.loudness)
    except ClipError as error:
        return part, {"file": name, "language": script.language, "reason": str(error)}
    voice_name = f"espeak-ng {script.language}+{voice.variant or 'plain'} rate {voice.rate} pitch {voice.pitch}"
    return part, _save_utterance(
        speech,
        folder / part / f"{name}.safetensors",
        script.codec,
        kind="synthetic",
        language=script.language,
        voice=voice_name,
        text=script.text,
    )


def _save_utterance(speech: Speech, path: Path, codec: str, **origin) -> Utterance:
    """Save a speech, after a codec if there is one. origin: the other fields of Utterance."""
    if codec:
        speech = Speech(
            np.clip(through_codec(speech.samples, codec), -1, 1), speech.loudness, speech.words, speech.phonemes
        )
    save(speech, path)
    return Utterance(file=path.name, seconds=round(speech.seconds, 3), codec=codec, **origin)


@dataclass(frozen=True)
class Recording:
    """A recording of real speech that the corpus or the test set is to hold."""

    index: int
    path: Path
    display_path: str  # as the user wrote it, or relative to the user's folder
    speaker: str
    language: str
    text: str  # transcript, or empty where there is none
    part: str


def _recordings(params: SpeechParams) -> list[Recording]:
    """All recordings of the parameters. Those that were added, and those without a transcript, are for training.

    In transcripts.csv of `recordings`, speakers whose names begin with one of `held_out_speakers` are held out, and so
    is every language but English. Raises UserError where a file or folder is missing.
    """
    found: list[Recording] = []
    for row in transcribed_recordings(params):
        is_held_out = row.speaker.startswith(tuple(params.held_out_speakers)) or not row.language.startswith("en")
        found.append(replace(row, part="held_out" if is_held_out else "train"))
    tables = sorted(resolve(params.added).glob(f"[!.]*/{TRANSCRIPTS}")) if params.added else []
    added = [row for table in tables for row in read_table(table, table.parent, "speech.added")]
    digests = {file_digest(row.path) for row in added if row.path.is_file()}
    if digests:  # what was added is trained on, and does not serve the choice of numbers any more
        found = [row for row in found if not row.path.is_file() or file_digest(row.path) not in digests]
    found = [replace(row, index=k) for k, row in enumerate([*found, *added])]
    if params.untranscribed:
        source = resolve(params.untranscribed)
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in AUDIO_ENDINGS)
        if not files:
            raise UserError(
                f"speech.untranscribed: {source} holds no {', '.join(AUDIO_ENDINGS)}; "
                "expected a folder of English recordings, or null"
            )
        if find_recognizer("auto") is None:
            raise UserError("speech.untranscribed: the extra `words` recognizes what is said; install it, or set null")
        found += [
            Recording(len(found) + k, path, str(path.relative_to(source)), path.parent.name, "en", "", "train")
            for k, path in enumerate(files)
        ]
    return found


def transcribed_recordings(params: SpeechParams) -> list[Recording]:
    """The rows of transcripts.csv in the folder `recordings`. Paths are relative to it, or to the folder above it."""
    if not params.recordings:
        return []
    source = resolve(params.recordings)
    rows = read_table(source / TRANSCRIPTS, source.parent, "speech.recordings")
    inside = [source / row.display_path for row in rows]
    return [replace(row, path=path) if path.is_file() else row for row, path in zip(rows, inside, strict=True)]


def read_table(table: Path, base: Path, setting: str) -> list[Recording]:
    """The recordings of a table with the columns path, speaker, lang, text, relative to the folder `base`."""
    if not table.is_file():
        raise UserError(
            f"{setting}: {table} not found; expected columns path, speaker, lang, text; set it to null to do without"
        )
    with open(table, encoding="utf-8", newline="") as file:
        return [
            Recording(k, base / r["path"], r["path"], r["speaker"], r["lang"].lower(), r["text"].strip(), "train")
            for k, r in enumerate(csv.DictReader(file))
        ]


def align_recording(folder: Path, audio: AudioParams, recording: Recording) -> tuple[str, Utterance | dict]:
    """Align and save a recording. Returns the part, and the utterance or its row of rejected.jsonl."""
    reason, text = "", recording.text
    if text and recording.part == "train" and is_held_out(text):
        reason = "its sentence belongs to the other part"
    else:
        try:
            recognizer = None if text else _recognizer()
            speech = from_file(recording.path, audio.loudness, text or None, recording.language, None, recognizer)
            text = text or speech.recognized
            reason = "" if speech.words and not speech.unaligned else "its words are unknown, or not what is said"
        except ClipError as error:
            reason = str(error)
    if reason:
        return recording.part, {"file": recording.display_path, "reason": reason}
    path = folder / recording.part / f"real-{recording.index:05d}.safetensors"
    return recording.part, _save_utterance(
        Speech(speech.samples, speech.loudness, speech.words, speech.phonemes),
        path,
        "",
        kind="real",
        language=recording.language,
        voice=recording.speaker,
        text=text,
        source=recording.display_path,
        sha256=file_digest(recording.path),
    )


@cache
def _recognizer() -> Recognizer | None:
    """The recognizer of this process."""
    return find_recognizer("auto")


def _lines(rows) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
