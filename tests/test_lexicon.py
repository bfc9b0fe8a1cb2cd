"""What users say about pronunciation: a lexicon in IPA, stressed words, pitch, and which track of a file speaks."""

import subprocess
import unicodedata

import numpy as np
import pytest

from stereotalker.audio.forced_alignment import align
from stereotalker.audio.lexicon import check_lexicon, ipa_symbols, pronunciation, words_of
from stereotalker.audio.marks import passages, without_marks
from stereotalker.audio.natural_voices import is_available
from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.voices import script_voice
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.media.audio_files import FFMPEG, SoundPart
from stereotalker.production.clip_speech import clip_voice, make_speech, speech_notes, speech_source
from stereotalker.production.manifest import single_clip

LEXICON = {"Siobhan": "ʃɪvˈɔːn", "Łódź": "wˈutʃ"}
needs_heart = pytest.mark.skipif(not is_available("heart"), reason="the extra [voices] is not installed")


# ---- lexicon ----


def test_sounds_of_a_word():
    assert ipa_symbols("ʃɪvˈɔːn") == ["ʃ", "ɪ", "v", "ˈɔː", "n"]
    assert ipa_symbols("ˈdʒeɪmz") == ["ˈdʒ", "eɪ", "m", "z"]
    assert pronunciation("SIOBHAN", LEXICON) == "ʃɪvˈɔːn" and pronunciation("Sean", LEXICON) is None
    assert pronunciation("o’brien", {"O'Brien": "oʊbɹˈaɪən"}) == "oʊbɹˈaɪən"
    check_lexicon(
        LEXICON
        | {"Bon": "bɔ̃", "Chen": "t͡ʃɛn", "Tom": "tʰɒm", "हिन्दी": "hˈɪn.diː", unicodedata.normalize("NFD", "Łód"): "wˈut"}
    )
    assert [pronunciation(w, {"Max": "mæks", "Pat": "pæt", "Ann": "æn"}) for w in ("Max's", "pat’s", "Ann's")] == [
        "mæksɪz", "pæts", "ænz"
    ]  # fmt: skip
    assert words_of(LEXICON, "Ask *Siobhan’s* dog.") == {"Siobhan": "ʃɪvˈɔːn"} and not words_of(LEXICON, "Ask me.")


@pytest.mark.parametrize(
    ("lexicon", "complaint"),
    [
        ({"New York": "nuː"}, "'New York' is not one word"),
        ({"Jean-Luc": "ʒɑ"}, "'Jean-Luc' is not one word of letters"),
        ({"3M": "ɛm"}, "is not one word of letters"),
        ({"Polish": "pˈoʊlɪʃ", "polish": "pˈɑlɪʃ"}, "stands in it twice"),
        ({"Ab": "ʔ"}, "is no sound in IPA"),
        ({"Ab": "/a/"}, "without slashes"),
        ({"": "nuː"}, "is not one word"),
        ({"Siobhan": "shi-VAWN"}, "is no sound in IPA; expected IPA such as"),
        ({"Siobhan": ""}, "it has no sounds"),
        ({"Siobhan": "ˈ"}, "it has no sounds"),
        ({"Siobhan": "ʃ7"}, "'7' is no sound in IPA"),
    ],
)
def test_a_faulty_lexicon_is_refused(lexicon, complaint):
    with pytest.raises(UserError, match=complaint):
        check_lexicon(lexicon)
    with pytest.raises(UserError, match="lexicon: .*" + complaint):
        single_clip("a", {"script": "Hello.", "lexicon": lexicon})


@needs_heart
def test_a_natural_voice_speaks_the_lexicon_and_its_key_knows():
    clip = single_clip("a", {"script": "We met siobhan.", "lexicon": LEXICON})
    spoken = from_script(clip.script, clip_voice(clip), -20.0)
    assert [p.text for p in spoken.phonemes][-5:] == ["ʃ", "ɪ", "v", "ˈɔː", "n"]
    plain = single_clip("a", {"script": "We met siobhan."})
    assert speech_source(clip, "", None) != speech_source(plain, "", None) and speech_notes(clip, spoken, None) == ()
    marked = clip.model_copy(update={"lexicon": {"Siobhan": "ʃɪ.vˈɔ̃ːn"}})
    assert [p.text for p in clip_voice(marked).speak(clip.script).phonemes][-5:] == ["ʃ", "ɪ", "v", "ˈɔː", "n"]
    with pytest.raises(ClipError, match="lexicon: Siobhan: the voice 'heart' has no sound 'ʙ'"):
        clip_voice(clip.model_copy(update={"lexicon": {"Siobhan": "ʙa"}})).check(clip.script)


def test_alignment_uses_the_lexicon_in_every_language():
    """The words are spoken as the lexicon has them, and written otherwise."""
    spoken = from_script(
        "This is shiven shawn speaking to you.",
        script_voice("heart" if is_available("heart") else "", None, 165),
        -20.0,
    )
    lexicon = {"Qqq": "ʃˈɪvən", "Łódź": "ʃˈɔn"}
    words, phonemes = align(spoken.samples, "This is Qqq Łódź speaking to you.", lexicon=lexicon)
    [name] = [w for w in words if w.text == "łódź"]
    assert [p.text.rstrip("01") for p in phonemes if name.start <= p.start < name.end] == ["SH", "AO", "N"]
    german, sounds = align(spoken.samples, "This is Qqq Łódź speaking to you.", "de", -90.0, lexicon)
    [name] = [w for w in german if w.text == "Łódź"]
    assert [p.text.rstrip("01") for p in sounds if name.start <= p.start < name.end] == ["SH", "AO", "N"]
    for language in ("en-us", "de"):  # a name that is said twice
        twice = align(spoken.samples, "This is Qqq Qqq speaking to you.", language, -200.0, lexicon)
        assert twice is not None and len(twice[0]) == 7


def test_espeak_says_that_it_reads_no_ipa():
    clip = single_clip("a", {"script": "We met *Siobhan*.", "voice": "espeak", "lexicon": LEXICON})
    unused = single_clip("a", {"script": "We met.", "voice": "espeak", "lexicon": LEXICON})
    assert speech_notes(unused, from_script(unused.script, clip_voice(unused), -20.0), None) == ()
    notes = speech_notes(clip, from_script(clip.script, clip_voice(clip), -20.0), None)
    assert len(notes) == 2 and "stresses no words" in notes[0] and "reads no IPA" in notes[1]


# ---- stress and pitch ----


def test_asterisks_mark_words():
    [passage] = passages("I *really* want *this one*, not 2 * 3 * 4 or a*b*c.")
    assert passage.text == "I really want this one, not 2 * 3 * 4 or a*b*c." and passage.stressed == (1, 3, 4)
    assert without_marks("*Well*, [nod] *this* one.") == "Well, this one."
    assert [p.stressed for p in passages("One [pause 1] *two* three")] == [(), (0,)]
    assert passages("“*Two*” *three*!")[0].stressed == (0, 1)


@needs_heart
def test_a_stressed_word_lasts_longer():
    voice = script_voice("heart", None, 165)
    plain, stressed = (from_script(t, voice, -20.0) for t in ("I want that one.", "I want *that* one."))
    lengths = [s.words[2].end - s.words[2].start for s in (plain, stressed)]
    assert [w.text for w in stressed.words] == ["I", "want", "that", "one"]
    assert lengths[1] > 1.2 * lengths[0], lengths
    units = script_voice("heart", None, 165).speak("It is 5 km, *not* ten kilometers.")
    [negation] = [word for word in units.words if word.text == "not"]
    assert any("ˈ" in p.text and "ː" in p.text for p in units.phonemes if negation.start <= p.start < negation.end)
    others = [s.words[k].end - s.words[k].start for s in (plain, stressed) for k in (0, 1)]
    assert max(abs(a - b) for a, b in zip(others[:2], others[2:], strict=True)) < 0.06
    assert "ˈ" in "".join(
        p.text for p in stressed.phonemes if stressed.words[2].start <= p.start < stressed.words[2].end
    )


def test_pitch_is_of_espeak_alone():
    low, high = (from_script("Hello.", script_voice("espeak", None, 165, pitch), -20.0).samples for pitch in (10, 90))
    lags = np.arange(40, 250)  # 400 to 64 Hz
    period = [lags[np.argmax([s[:-lag] @ s[lag:] for lag in lags])] for s in (low, high)]
    assert period[0] > 1.2 * period[1], period
    if is_available("heart"):
        with pytest.raises(ClipError, match="pitch: the voice 'heart' has its own"):
            script_voice("", None, 165, 60)
    assert script_voice("espeak", None, 165, 30).voice_of("de").pitch == 30
    with pytest.raises(UserError, match="pitch is of the voice that speaks a script"):
        single_clip("a", {"audio": "a.wav", "pitch": 30})


# ---- which track speaks ----


@pytest.fixture(scope="module")
def two_voices(tmp_path_factory):
    """A stereo file with one voice on each channel, the same as two sound tracks, and both voices' samples."""
    folder = tmp_path_factory.mktemp("tracks")
    texts = ("One speaker says this.", "Another one answers.")
    for k, text in enumerate(texts, 1):
        spoken = from_script(text, script_voice("espeak", None, 165), -20.0, folder / f"{k}.wav")
        assert spoken.words
    inputs = [FFMPEG, "-v", "error", "-i", str(folder / "1.wav"), "-i", str(folder / "2.wav")]
    channels = "[0]pan=mono|c0=c0[a];[1]pan=mono|c0=c0[b];[a][b]join=inputs=2:channel_layout=stereo"
    subprocess.run([*inputs, "-filter_complex", channels, str(folder / "stereo.wav")], check=True)
    subprocess.run([*inputs, "-map", "0", "-map", "1", "-c", "pcm_s16le", str(folder / "tracks.mkv")], check=True)
    return folder, [from_file(folder / f"{k}.wav", -20.0).samples for k in (1, 2)]


@pytest.mark.parametrize("name", ["stereo.wav", "tracks.mkv"])
@pytest.mark.parametrize("speaker", [1, 2])
def test_one_speaker_of_two_tracks(two_voices, name, speaker):
    folder, voices = two_voices
    clip = single_clip("a", {"audio": str(folder / name), "speaker": speaker, "transcript": "none"})
    heard = make_speech(clip, -20.0, None, folder / "sound.wav").samples
    for k, voice in enumerate(voices, 1):
        n = min(len(heard), len(voice))
        assert (np.corrcoef(heard[:n], voice[:n])[0, 1] > 0.9) == (k == speaker)
    assert speech_source(clip, "x", None) != speech_source(clip.model_copy(update={"speaker": None}), "x", None)


def test_a_track_that_is_not_there_is_refused(two_voices):
    folder, _ = two_voices
    for name, has in (("stereo.wav", "one sound track of 2 channel"), ("tracks.mkv", "2 sound tracks")):
        with pytest.raises(ClipError, match=f"speaker 3: .* has {has}"):
            audio_files.media_seconds(folder / name, SoundPart(speaker=3))
    with pytest.raises(UserError, match="speaker is a track of an audio file"):
        single_clip("a", {"script": "Hello.", "speaker": 2})
