"""Speech: recordings and scripts, phonemes in time, forced alignment and the speech encoder."""

import csv
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import Wav2Vec2Config, Wav2Vec2Model

from stereotalker.audio.encoder import (
    HOP_SAMPLES,
    EncoderConfig,
    SpeechEncoder,
    frame_times,
    phoneme_classes_at,
    speech_level,
)
from stereotalker.audio.forced_alignment import align
from stereotalker.audio.phonemes import CLASS_INDEX, CLASSES, arpabet, phoneme_class
from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.text_to_speech import Voice, speak
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.records import SAMPLE_RATE
from stereotalker.weights import load_weights, save_weights


def tone(path, rate=16000, seconds=1.0, channels=1, value=None):
    t = np.arange(int(rate * seconds)) / rate
    wave = (
        (0.3 * np.sin(2 * np.pi * 220 * t))[:, None].repeat(channels, 1)
        if value is None
        else np.full((len(t), channels), value)
    )
    wavfile.write(path, rate, wave.astype(np.float32))
    return path


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (22050, 2), (44100, 2), (48000, 1)])
def test_any_sample_rate_and_channel_count_is_read(tmp_path, rate, channels):
    sound = tmp_path / "sound.wav"
    speech = from_file(tone(tmp_path / "a.wav", rate, 1.5, channels), -20.0, sound=sound)
    length = len(audio_files.read_wav(sound)) / audio_files.OUTPUT_RATE
    assert abs(speech.seconds - 1.5) < 0.01 and abs(length - 1.5) < 0.01
    assert abs(speech.loudness + 20) < 0.1 and abs(audio_files.loudness(sound) + 20) < 0.3


@pytest.mark.parametrize("extension", ["mp3", "m4a", "ogg", "flac", "mp4"])
def test_audio_of_any_container_is_read_and_of_videos_too(tmp_path, extension):
    wav, out = tone(tmp_path / "a.wav", seconds=1.0), tmp_path / f"a.{extension}"
    video = ["-f", "lavfi", "-i", "color=red:s=64x64:d=1"] if extension == "mp4" else []
    subprocess.run([audio_files.FFMPEG, "-v", "error", "-i", wav, *video, out], check=True)
    assert abs(from_file(out, -20.0).seconds - 1.0) < 0.08


def test_channels_in_opposite_phase_do_not_cancel(tmp_path):
    t = np.sin(np.arange(16000) * 0.1) * 0.3
    wavfile.write(tmp_path / "a.wav", 16000, np.stack([t, -t], 1).astype(np.float32))
    assert np.abs(from_file(tmp_path / "a.wav", -20.0).samples).max() > 0.05


def test_silence_stays_silent(tmp_path):
    speech = from_file(tone(tmp_path / "a.wav", value=0.0), -20.0, sound=tmp_path / "sound.wav")
    assert speech.loudness == -np.inf and not audio_files.read_wav(tmp_path / "sound.wav").any()


def test_loudness_normalization_does_not_clip_peaks(tmp_path):
    from_file(tone(tmp_path / "a.wav"), 0.0, sound=tmp_path / "sound.wav")
    assert 0.9 * 32768 < np.abs(audio_files.read_wav(tmp_path / "sound.wav")).max() <= 0.98 * 32768


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: p.write_text("not sound"), "cannot be read as audio"),
        (lambda p: p.write_bytes(b""), "cannot be read as audio"),
        (lambda p: tone(p, seconds=0.05), "lasts 0.05 s"),
        (lambda p: tone(p, value=np.nan), "NaN"),
        (lambda p: None, "not found"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path, make, complaint):
    make(tmp_path / "a.wav")
    with pytest.raises(ClipError, match=complaint) as error:
        from_file(tmp_path / "a.wav", -20.0)
    assert "\n" not in str(error.value)


def test_clipped_sound_is_accepted(tmp_path):
    wave = np.clip(20 * np.sin(np.arange(32000) * 0.05), -1, 1).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", 16000, wave)
    speech = from_file(tmp_path / "a.wav", -20.0)
    assert abs(speech.loudness + 20) < 0.2 and np.isfinite(speech.samples).all()


def test_recordings_longer_than_three_hours_are_refused(tmp_path, monkeypatch):
    assert audio_files.MAX_SECONDS == 3 * 3600
    monkeypatch.setattr(audio_files, "MAX_SECONDS", 1.0)
    with pytest.raises(ClipError, match="lasts 1.50 s; expected"):
        from_file(tone(tmp_path / "a.wav", seconds=1.5), -20.0)


def test_a_video_without_sound_is_refused(tmp_path):
    subprocess.run(
        [audio_files.FFMPEG, "-v", "error", "-f", "lavfi", "-i", "color=red:s=64x64:d=1", tmp_path / "a.mp4"],
        check=True,
    )
    with pytest.raises(ClipError, match="audio stream"):
        from_file(tmp_path / "a.mp4", -20.0)


def test_the_default_track_is_read_and_not_the_first(tmp_path):
    silent, loud = tone(tmp_path / "silent.wav", value=0.0), tone(tmp_path / "loud.wav")
    tracks = ["-map", "0", "-map", "1", "-disposition:a:0", "0", "-disposition:a:1", "default"]
    out = tmp_path / "two.mp4"
    subprocess.run([audio_files.FFMPEG, "-v", "error", "-i", silent, "-i", loud, *tracks, out], check=True)
    assert np.abs(from_file(out, -20.0).samples).max() > 0.05


@pytest.mark.parametrize("channel", range(6))
def test_sound_in_any_one_of_six_channels_is_found(tmp_path, channel):
    wave = np.zeros((16000, 6), np.float32)
    wave[:, channel] = 0.3 * np.sin(np.arange(16000) * 0.1)
    wavfile.write(tmp_path / "a.wav", 16000, wave)
    assert np.abs(from_file(tmp_path / "a.wav", -20.0).samples).max() > 0.05


@pytest.mark.parametrize("extension", ["webm", "flac"])
def test_the_length_of_a_file_without_one_in_its_header_is_measured(tmp_path, extension):
    """As a program writes it that cannot go back in its output."""
    command = [audio_files.FFMPEG, "-v", "error", "-i", tone(tmp_path / "a.wav", 48000, 1.5), "-f", extension, "-"]
    (tmp_path / f"a.{extension}").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert abs(audio_files.media_seconds(tmp_path / f"a.{extension}") - 1.5) < 0.05


def test_sound_that_begins_later_than_the_pictures_begins_with_silence(tmp_path):
    pictures = ["-f", "lavfi", "-i", "color=red:s=64x64:d=2"]
    sound = ["-itsoffset", "0.8", "-i", tone(tmp_path / "a.wav", 48000)]
    out = tmp_path / "late.mkv"
    subprocess.run([audio_files.FFMPEG, "-v", "error", *pictures, *sound, out], check=True)
    samples = from_file(out, -20.0).samples
    assert not samples[: int(0.7 * 16000)].any() and abs(np.argmax(np.abs(samples) > 0.01) / 16000 - 0.8) < 0.03


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    tone(tmp_path / "10:30 call.wav", seconds=1.5)
    monkeypatch.chdir(tmp_path)
    path = Path("10:30 call.wav")
    assert audio_files.media_seconds(path) == 1.5 and abs(from_file(path, -20.0).seconds - 1.5) < 0.01


def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sch\xf6n.wav"))
    tone(tmp_path / "a.wav").rename(path)
    for read in (audio_files.media_seconds, lambda path: from_file(path, -20.0)):
        with pytest.raises(ClipError, match="is not UTF-8; rename it"):
            read(path)


def test_the_speech_of_a_long_recording_is_resampled_without_seams(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((48000 * 3, 2)) * 3000).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", 48000, noise)
    whole = audio_files.speech_samples(tmp_path / "a.wav")
    monkeypatch.setattr(audio_files, "_CHUNK", 48000 // 4)
    assert len(whole) == 48000 and np.abs(audio_files.speech_samples(tmp_path / "a.wav") - whole).max() < 1e-6


def test_a_script_gives_words_and_phonemes_in_order_of_time(speech):
    assert [w.text.lower().strip(".") for w in speech.words] == "maybe my mother bought a big brown umbrella".split()
    assert all(a.end <= b.start + 1e-6 for a, b in zip(speech.phonemes, speech.phonemes[1:], strict=False))
    assert speech.phonemes[-1].end <= speech.seconds + 0.05
    # maybe (2), my, mother, bought, big, brown, umbrella (2)
    assert sum(phoneme_class(p.text) in ("p", "m") for p in speech.phonemes) == 9


def test_a_script_sounds_the_same_after_another_script():
    one = from_script("one two", Voice(), -20.0)
    speak("something else", Voice("de"))
    assert np.array_equal(one.samples, from_script("one two", Voice(), -20.0).samples)


@pytest.mark.parametrize("language", ["de", "fr-fr", "es", "ja", "cmn", "ar", "hi"])
def test_other_languages_are_spoken(language):
    assert len(speak("Berlin 25", Voice(language)).phonemes) > 4


@pytest.mark.parametrize(
    ("text", "voice", "complaint"),
    [
        ("", Voice(), "no letters"),
        (" ...!?", Voice(), "no letters"),
        ("hi", Voice("xx"), "language 'xx'"),
        ("hi", Voice("en-us", "nobody"), "voice 'nobody'"),
    ],
)
def test_scripts_that_cannot_be_spoken_are_refused(text, voice, complaint):
    with pytest.raises(ClipError, match=complaint):
        from_script(text, voice, -20.0)


def test_phoneme_classes_are_known_for_ipa_and_arpabet():
    assert [phoneme_class(s) for s in ("ˈɪ", "b", "tʃ", "P", "AA1", "ɔː", "ɹ̩", "")] == [
        "i",
        "p",
        "sh",
        "p",
        "aa",
        "o",
        "r",
        "sil",
    ]


def test_frame_classes_follow_the_times_of_the_phonemes(speech):
    classes = phoneme_classes_at(speech, frame_times(len(speech.samples) // HOP_SAMPLES))
    first_m = speech.phonemes[0]
    assert classes[int((first_m.start + first_m.end) / 2 * SAMPLE_RATE / HOP_SAMPLES)] == CLASS_INDEX["m"]


def test_a_span_of_frames_is_encoded_at_its_own_times(tiny_models):
    encoder = tiny_models.synthesizer.encoder
    samples = np.random.default_rng(0).normal(0, 0.1, 41 * SAMPLE_RATE).astype(np.float32)
    features = encoder.encode(samples)
    assert features.shape == ((len(samples) - 400) // HOP_SAMPLES + 1, encoder.features)
    assert np.isfinite(features).all() and encoder.encode(samples[:100]).shape[0] == 1
    span, level = encoder.encode(samples, 500, 10), encoder.features - len(CLASSES) - 1
    assert np.allclose(span[:, level], features[500:510, level], atol=1e-4) and np.ptp(span[:, level]) > 1e-3
    # After the end of the speech the encoder gets silence.
    assert encoder.encode(samples, 5000, 10).shape == (10, encoder.features)


def test_silence_after_speech_does_not_change_its_features(tiny_models, speech):
    encoder = tiny_models.synthesizer.encoder
    with_silence = np.pad(speech.samples, (0, 30 * SAMPLE_RATE))
    assert (
        speech_level(with_silence) == pytest.approx(speech_level(speech.samples), rel=0.05)
        and speech_level(np.zeros(100, np.float32)) > 0
    )
    plain, padded = (
        encoder.encode(speech.samples, 0, 60),
        encoder.encode(with_silence, 0, 60, speech_level(speech.samples)),
    )
    assert np.abs(plain - padded).max() < 1e-4


def test_the_front_end_has_the_frames_of_wav2vec2(tiny_models):
    encoder: SpeechEncoder = tiny_models.synthesizer.encoder
    for count in (400, 719, 720, 16000):
        assert encoder(torch.zeros(1, count), torch.ones(1))[0].shape[1] == (count - 400) // HOP_SAMPLES + 1


def test_a_public_encoder_is_loaded_from_its_folder_and_not_saved_again(tmp_path, speech):
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    Wav2Vec2Model(
        Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    ).save_pretrained(tmp_path / "public")
    encoder = SpeechEncoder(EncoderConfig(str(tmp_path / "public"), 0, 0, 0)).eval()
    assert encoder.encode(speech.samples).shape[1] == encoder.features == 32 + 1 + len(CLASSES)
    assert [name for name, p in encoder.named_parameters() if p.requires_grad] == ["classify.weight", "classify.bias"]
    save_weights(encoder, tmp_path / "audio.safetensors")
    again = load_weights(SpeechEncoder, EncoderConfig, tmp_path / "audio.safetensors")
    assert (tmp_path / "audio.safetensors").stat().st_size < 10_000
    assert np.abs(again.encode(speech.samples)[:, :32] - encoder.encode(speech.samples)[:, :32]).max() < 1e-5
    Wav2Vec2Model(
        Wav2Vec2Config(
            **sizes,
            conv_dim=(8,),
            conv_stride=(160,),
            conv_kernel=(400,),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
    ).save_pretrained(tmp_path / "fast")
    for source, complaint in (
        (tmp_path / "fast", "hears 400 samples every 160"),
        (tmp_path / "nothing", "expected a folder, or a hub id with its revision"),
    ):
        with pytest.raises(UserError, match=complaint):
            SpeechEncoder(EncoderConfig(str(source), 0, 0, 0))


def test_real_speech_is_aligned_and_other_text_is_not(real_speech):
    row = next(r for r in csv.DictReader(open(real_speech / "transcripts.csv")) if "p225_003" in r["path"])
    speech = from_file(real_speech.parent / row["path"], -20.0)
    words, phonemes = align(speech.samples, row["text"])
    assert words[0].text == "six" and words[-1].end <= speech.seconds and len(phonemes) > 50
    assert align(speech.samples, "The quarterly figures will be presented by our new director on Friday.") is None
    assert align(speech.samples, "...") is None


@pytest.mark.parametrize(("speaker", "language"), [("picovoice_it", "it"), ("kerstin", "de")])
def test_other_languages_are_aligned_and_other_text_is_not(real_speech, speaker, language):
    rows = [r for r in csv.DictReader(open(real_speech / "transcripts.csv")) if r["lang"] == language]
    row = next(r for r in rows if r["speaker"] == speaker)
    speech = from_file(real_speech.parent / row["path"], -20.0)
    words, phonemes = align(speech.samples, row["text"], language)
    assert (
        align(
            speech.samples,
            rows[-2]["text"] if len(rows) > 2 else "Domani non ci sarà nessuno che possa aprire quella porta.",
            language,
        )
        is None
    )
    assert len(words) >= len(row["text"].split()) - 2 and words[-1].end <= speech.seconds and len(phonemes) > 20


def test_a_transcript_gives_word_times_and_a_wrong_one_gives_none(real_speech):
    row = next(r for r in csv.DictReader(open(real_speech / "transcripts.csv")) if "p226_003" in r["path"])
    path = real_speech.parent / row["path"]
    assert from_file(path, -20.0, row["text"]).words[0].text == "six"
    wrong = from_file(path, -20.0, "Nobody has ever said a word like this into that microphone.")
    assert wrong.words == () and wrong.phonemes == ()


def test_recordings_too_long_to_align_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("stereotalker.audio.speech.MAX_ALIGNMENT_S", 1.0)
    with pytest.raises(ClipError, match="expected at most 0 min with a transcript"):
        from_file(tone(tmp_path / "a.wav", seconds=1.5), -20.0, "one two")


def test_words_missing_from_the_dictionary_are_pronounced_by_espeak():
    from stereotalker.audio.forced_alignment import _decoder, _english

    decoder = _decoder()
    assert decoder.lookup_word("glorbish") is None
    assert [word for _, word in _english(decoder, "The glorbish quilter sang.")] == [
        "the",
        "glorbish",
        "quilter",
        "sang",
    ]
    assert decoder.lookup_word("glorbish").startswith("G L")
    with pytest.raises(ClipError, match="language 'xx'"):
        align(np.zeros(16000, np.float32), "eins zwei", "xx")
    assert arpabet("ˈpfiː") == ["P", "F"] and arpabet("b") == ["B"] and arpabet("ɡ") == ["G"] and arpabet("") == []
