"""Rows in several languages, parts of recordings, and a loudness of one's own."""

import numpy as np
import pytest
import yaml
from scipy.io import wavfile

from stereotalker.audio.speech import from_file
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.media.audio_files import SoundPart
from stereotalker.production.clip_speech import make_speech, speech_source, target_loudness
from stereotalker.production.manifest import read_manifest, single_clip
from stereotalker.records import SAMPLE_RATE


def manifest(tmp_path, *rows):
    path = tmp_path / "night.yaml"
    path.write_text(
        yaml.safe_dump({"clips": [{"avatar": "ava"} | row for row in rows]}, allow_unicode=True, sort_keys=False)
    )
    return path


def test_a_row_becomes_a_clip_for_each_language(tmp_path):
    script = {"en-us": "Good morning.", "de": "Guten Morgen.", "es": "Buenos días."}
    row = {"id": "talk", "script": script, "voice": {"de": "f4"}, "seed": 3, "rate": 150}
    clips = read_manifest(manifest(tmp_path, row, {"id": "other", "script": "Hello."})).clips
    assert [(c.id, c.language, c.script, c.voice) for c in clips] == [
        ("talk-en-us", "en-us", "Good morning.", ""),
        ("talk-de", "de", "Guten Morgen.", "f4"),
        ("talk-es", "es", "Buenos días.", ""),
        ("other", None, "Hello.", ""),
    ]
    assert all(c.seed == 3 and c.rate == 150 for c in clips[:3])
    chosen = read_manifest(manifest(tmp_path, row | {"languages": ["es", "de"]})).clips
    assert [c.id for c in chosen] == ["talk-es", "talk-de"]


def test_recordings_and_their_transcripts_by_language(tmp_path):
    audio = {"en-us": "en.wav", "de": "de.wav"}
    row = {"id": "talk", "audio": audio, "transcript": {"de": "Guten Morgen."}}
    english, german = read_manifest(manifest(tmp_path, row)).clips
    assert english.audio.name == "en.wav" and english.is_recognized
    assert german.audio.name == "de.wav" and german.given_transcript == "Guten Morgen."


def test_columns_of_a_table_name_languages(tmp_path):
    (tmp_path / "night.csv").write_text("id,avatar,script.en-us,script.de\ntalk,ava,Hello.,Hallo.\nshort,ava,Yes.,\n")
    assert [c.id for c in read_manifest(tmp_path / "night.csv").clips] == ["talk-en-us", "talk-de", "short-en-us"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"languages": ["de"], "script": "Hallo."},
            "languages: expected a script or an audio for each, such as script",
        ),
        ({"voice": {"de": "f4"}, "script": "Hallo."}, "languages: expected a script or an audio for each"),
        ({"script": {"de": "Hallo."}, "audio": {"de": "a.wav"}}, "languages: expected a script or an audio for each"),
        ({"script": {"de": "Hallo."}, "languages": ["de", "es"]}, "script has nothing for 'es'"),
        (
            {"script": {"de": "Hallo."}, "languages": "de"},
            "languages: expected a list of languages such as .*, got 'de'",
        ),
        ({"script": {"de": "Hallo."}, "languages": []}, "languages: expected a list of languages"),
        ({"script": {"de": "Hallo."}, "language": "de"}, "language stands beside script by language; leave it out"),
        ({"script": {"de": 3}}, "script: "),
    ],
)
def test_faults_of_languages_name_row_and_clip(tmp_path, row, complaint):
    with pytest.raises(UserError, match=f"row 1, clip 'talk(-de)?': {complaint}"):
        read_manifest(manifest(tmp_path, {"id": "talk"} | row))


def test_ids_of_languages_must_not_collide_with_others(tmp_path):
    with pytest.raises(UserError, match="clip 'talk-de': id is already taken by row 1"):
        read_manifest(manifest(tmp_path, {"id": "talk", "script": {"de": "A."}}, {"id": "talk-de", "script": "B."}))


@pytest.fixture
def steps(tmp_path):
    """Three seconds of sound at 44.1 kHz: one second each of 200, 400 and 800 Hz."""
    t = np.arange(44100) / 44100
    sound = np.concatenate([0.2 * np.sin(2 * np.pi * f * t) for f in (200, 400, 800)])
    wavfile.write(tmp_path / "steps.wav", 44100, sound.astype(np.float32))
    return tmp_path / "steps.wav"


def pitch(samples):
    spectrum = np.abs(np.fft.rfft(samples))
    return spectrum.argmax() * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(
    ("part", "seconds", "hertz"),
    [((1.0, 1.0), 1.0, 400), ((2.0, None), 1.0, 800), ((0.0, 0.5), 0.5, 200), ((2.5, 9.0), 0.5, 800)],
)
def test_a_part_of_a_recording_is_cut_to_the_sample(steps, part, seconds, hertz):
    speech = from_file(steps, -20.0, part=SoundPart(*part))
    assert abs(speech.seconds - seconds) < 2 / SAMPLE_RATE and abs(pitch(speech.samples) - hertz) < 3
    assert abs(speech.loudness + 20) < 0.3
    assert audio_files.media_seconds(steps, SoundPart(*part)) == pytest.approx(seconds, abs=0.001)


def test_a_part_behind_the_end_is_refused(steps):
    for function in (
        lambda: from_file(steps, -20.0, part=SoundPart(5.0, 1.0)),
        lambda: audio_files.media_seconds(steps, SoundPart(5, 1)),
    ):
        with pytest.raises(ClipError, match="part begins at 5 s, but .*steps.wav lasts 3.00 s"):
            function()


def test_a_row_has_its_own_part_and_loudness(steps, tmp_path):
    row = {"audio": steps, "part": {"start": 1.0, "seconds": 1.0}, "loudness": -30, "transcript": "none"}
    clip = single_clip("a", row)
    speech = make_speech(clip, -20.0, None, tmp_path / "sound.wav")
    assert abs(speech.loudness + 30) < 0.3 and abs(pitch(speech.samples) - 400) < 3
    assert target_loudness(clip, -20.0) == -30 and target_loudness(single_clip("b", {"audio": steps}), -20.0) == -20
    whole = single_clip("a", {"audio": steps, "transcript": "none"})
    assert speech_source(clip, "f", None) != speech_source(whole, "f", None)
    with pytest.raises(UserError, match="part is of an audio file"):
        single_clip("a", {"script": "Hello.", "part": {"start": 1.0}})
