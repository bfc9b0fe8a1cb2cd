"""Marks in scripts: pauses, and passages in other languages."""

import numpy as np
import pytest

from stereotalker.audio.marks import MarkedVoice, Passage, passages, without_marks
from stereotalker.audio.speech import check_script, from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.audio.voices import script_voice
from stereotalker.errors import ClipError
from stereotalker.production.clip_speech import clip_captions, speech_source
from stereotalker.production.manifest import single_clip


def test_passages_of_a_script():
    assert passages("Hello there.") == [Passage("Hello there.", None, 0.0)]
    assert passages("One. [pause 0.5] Two. [Pause 1][pause 0.5]") == [
        Passage("One.", None, 0.0),
        Passage("Two.", None, 0.5),
        Passage("", None, 1.5),
    ]
    assert passages('She said <lang xml:lang="de">Guten Morgen [pause 0.2] Welt</lang> to me.') == [
        Passage("She said", None, 0.0),
        Passage("Guten Morgen", "de", 0.0),
        Passage("Welt", "de", 0.2),
        Passage("to me.", None, 0.0),
    ]
    assert passages("") == [Passage("", None, 0.0)]
    assert without_marks("One [pause 1] <lang xml:lang='fr-fr'>deux</lang>.") == "One deux ."


def test_other_signs_are_text():
    text = "An aside (he laughs), 3 < 4 and a <b>bold</b> word."
    assert passages(text) == [Passage(text, None, 0.0)]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("A [pause] b.", r"\[pause\]; expected seconds up to 30, such as \[pause 0.5\]"),
        ("A [pause x] b.", "expected seconds"),
        ("A [pause 0] b.", "expected seconds"),
        ("A [pause nan] b.", "expected seconds"),
        ("A [pause 31] b.", "expected seconds up to 30"),
        ('A <lang xml:lang="de">b.', "<lang> of 'de' is not closed; expected </lang>"),
        ("A </lang> b.", "</lang> closes no <lang>"),
        ("A <lang de>b</lang>.", 'expected <lang xml:lang="de">'),
        ('<lang xml:lang="de">a <lang xml:lang="fr">b</lang></lang>', "stands within another <lang>"),
        ("[pause 1]", "no letters or digits"),
        ('<lang xml:lang="xx">a</lang> b', "'xx'"),
    ],
)
def test_faulty_marks_are_refused_before_the_batch(script, complaint):
    with pytest.raises(ClipError, match=complaint):
        voice = script_voice("espeak", None, 165)
        check_script(script, voice)
        from_script(script, voice, -20.0)


def test_a_pause_moves_what_follows_and_all_is_equally_loud():
    plain, marked = (
        from_script(text, script_voice("espeak", None, 165), -20.0)
        for text in (
            "Good morning. Good evening.",
            "[pause 0.3] Good morning. [pause 2] Good evening. [pause 1]",
        )
    )
    assert marked.seconds - plain.seconds > 2.8
    starts = {w.text: w.start for w in marked.words}
    assert list(starts) == ["Good", "morning", "evening"] and marked.words[0].start >= 0.3
    gap = marked.words[2].start - marked.words[1].end
    assert 1.9 < gap < 2.8 and all(p.end <= marked.seconds for p in marked.phonemes)
    silent = marked.samples[int((marked.words[1].end + 0.8) * 16000) : int((marked.words[2].start - 0.2) * 16000)]
    assert len(silent) > 8000 and np.abs(silent).max() < 0.01


def test_a_passage_is_spoken_by_the_voice_of_its_language():
    voice = script_voice("", None, 165)
    script = 'He said <lang xml:lang="de">Guten Morgen, liebe Leute</lang> to everybody.'
    speech = from_script(script, voice, -20.0)
    assert [w.text for w in speech.words] == ["He", "said", "Guten", "Morgen", "liebe", "Leute", "to", "everybody"]
    assert all(a.end <= b.start + 0.02 for a, b in zip(speech.words, speech.words[1:], strict=False))
    english, german = (
        speech.samples[int(a * 16000) : int(b * 16000)]
        for a, b in ((0, speech.words[1].end), (speech.words[2].start, speech.words[5].end))
    )
    levels = [np.sqrt((s[np.abs(s) > 0.01] ** 2).mean()) for s in (english, german)]
    assert 0.5 < levels[0] / levels[1] < 2
    identities = voice.identity(script)
    assert len(identities) == 3 and identities[0] == identities[2] != identities[1]
    assert identities[1] == Voice("de").identity()


def test_captions_and_keys_of_a_marked_script():
    row = {"script": "Good morning to you. [pause 1] And good night to all.", "voice": "espeak", "captions": "files"}
    clip = single_clip("a", row)
    speech = from_script(clip.script, script_voice("espeak", None, 165), -20.0)
    text = " ".join(caption.text for caption in clip_captions(clip, speech))
    assert "pause" not in text and "[" not in text and "good night to all." in text
    other = single_clip("a", row | {"script": row["script"].replace("pause 1", "pause 2")})
    assert speech_source(clip, "", None) != speech_source(other, "", None)
    assert isinstance(script_voice("espeak", None, 165), MarkedVoice)
