"""Cues: what a director asks for, when it is done, and what becomes of cues that cannot be done."""

from dataclasses import replace

import numpy as np
import pytest

from stereotalker.acting.cues import cue_names, parse_cue
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.marks import CueMark, cue_marks, without_cues, without_marks
from stereotalker.audio.speech import from_script
from stereotalker.audio.voices import script_voice
from stereotalker.audio.written_words import count_words, find_word, word_at
from stereotalker.avatar.library import SHIPPED, read_avatar
from stereotalker.errors import ClipError, UserError
from stereotalker.motion.cues import TimedCue, done_cues, with_arm_cues, with_head_and_face_cues
from stereotalker.motion.post_processing import Emotion, with_emotion
from stereotalker.motion.retargeting import Retargeting
from stereotalker.production.clip_cues import check_cues, outcomes, plan_cues, timed_cues
from stereotalker.production.clip_judgement import _cue_outcomes, clip_camera
from stereotalker.production.clip_speech import speech_source
from stereotalker.production.manifest import read_manifest, single_clip
from stereotalker.production.motion_controls import clip_seed, clip_style
from stereotalker.records import SAMPLE_RATE, Speech, Timed
from stereotalker.smplx_layout import ACTION, JOINT

FPS = 25.0
# Forty-one cues of every kind, with room between them.
SCRIPTS = [
    "[pause 0.7] [wave] Hello everyone. [open hands] Welcome to the show. We [point: left] look at this chart today, "
    "and [nod] that is why it matters. [smile 0.8] It is a promise. [pause 1]",
    "[pause 0.7] [thumb up] You can do it, and nobody will [shake] ever stop you. [raise brows] Really? [count: 3] "
    "Three reasons are enough, and I [me] like that more. [frown] But it is dangerous. [pause 1]",
    "We have two options here. [point: right] The first one is cheap. The other one is [point: up] quick, and I like "
    "it [tilt] more. What do [question] you think about it now? [nod 0.6] Good. [pause 1]",
    "Numbers are [growth] growing in all the markets, [nod] and that is [big] huge. But we must [stop] wait for now, "
    "and be very [exact] precise about all of our [money] money. [smile] Thank you. [pause 1]",
    "Please [no] never do this at home. [frown] It is dangerous, and really [none] nothing good will come of it today. "
    "[point: down] Look below for all of the details, [shake] not above. [pause 1]",
    "[pause 0.7] [count: 1] First, open the box. [count: 2] Second, take everything out. [count: 4] Four small screws "
    "are left over. [count: 5] Five minutes later you are [end] done. [nod] Goodbye. [wave] See you. [pause 1]",
    "We [we] all believe in this, [raise brows] and you will [feel] love it as well. [think] Remember all that we "
    "did in the [past] old days, and do not forget what comes [future] tomorrow. [pause 1]",
]


def words(*texts: str, gap=0.6) -> tuple[Timed, ...]:
    return tuple(Timed(text, k * gap, k * gap + 0.3) for k, text in enumerate(texts))


def silent_speech(*texts: str, seconds=8.0) -> Speech:
    return Speech(np.zeros(int(seconds * SAMPLE_RATE), np.float32), -20.0, words(*texts))


def planned(script="", seconds=8.0, moves_arms=True, speech=None, **row):
    clip = single_clip("a", {"script": script or "One two three four five six.", "voice": "espeak", **row})
    spoken = speech or silent_speech(*without_marks(clip.script).split())
    return plan_cues(clip, spoken, seconds, moves_arms)


# ---- what can be asked for ----


def test_every_cue_that_is_offered_exists():
    for name in cue_names():
        cue = parse_cue(name)
        assert cue.text == name and cue.amount == 1 and (cue.arms or cue.head or cue.face)
    assert parse_cue("  Smile   0.8 ").amount == 0.8
    assert parse_cue("point : LEFT").hand == "right"  # the person's right hand is on the left of the picture
    assert parse_cue("no").head == "shake" and parse_cue("open hands").head == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nodd", "cue 'nodd' does not exist; did you mean nod"),
        ("he laughs", "does not exist; expected one of beat, "),
        ("", "there is nothing in the brackets"),
        ("point", "expected one of point: left, point: right, point: up, point: down"),
        ("point: sideways", "expected one of point: left"),
        ("count: 6", "expected one of count: 1"),
        ("nod: left", "expected nod alone"),
        ("smile 0", "more than 0 and at most 1"),
        ("smile 1.5", "more than 0 and at most 1"),
        ("smile -1", "more than 0 and at most 1"),
    ],
)
def test_a_cue_that_does_not_exist_is_refused(text, complaint):
    with pytest.raises(UserError, match=complaint):
        parse_cue(text)
    with pytest.raises(UserError, match=complaint):
        single_clip("a", {"script": "Hello.", "cues": [{"gesture": text, "time": 1}]})
    with pytest.raises(ClipError, match=complaint):
        check_cues(single_clip("a", {"script": f"Hello [{text}] there."}))


def test_cues_of_a_row_have_a_word_or_a_time(tmp_path):
    yes_and_no = [{"gesture": False, "time": 1.0}, {"gesture": True, "time": 3.0}]  # as YAML reads them
    assert [c.gesture for c in single_clip("a", {"script": "Hello.", "cues": yes_and_no}).cues] == ["no", "yes"]
    for word, complaint in ((True, "put the word in quotes"), (0, "a number from 1"), ("-", "a number from 1")):
        with pytest.raises(UserError, match=complaint):
            single_clip("a", {"script": "Hello.", "cues": [{"gesture": "nod", "word": word}]})
    with pytest.raises(UserError, match="cues: expected a list such as"):
        single_clip("a", {"script": "Hello.", "cues": "nod"})
    for keys in ({}, {"word": 1, "time": 2.0}):
        with pytest.raises(UserError, match="give its word or its time"):
            single_clip("a", {"script": "Hello.", "cues": [{"gesture": "nod", **keys}]})
    manifest = tmp_path / "m.csv"
    manifest.write_text('id,avatar,script,cues\na,ava,Hello.,"[{""gesture"": ""nod"", ""word"": ""hello""}]"\n')
    assert read_manifest(manifest).clips[0].cues[0].word == "hello"


# ---- where they stand ----


def test_cues_are_found_in_a_script_and_are_not_spoken():
    script = "[nod] Well, [pause 0.5] this – [smile 0.8]is[tilt] it. [wave]"
    assert cue_marks(script) == [CueMark("nod", 0), CueMark("smile 0.8", 2), CueMark("tilt", 3), CueMark("wave", 4)]
    assert without_marks(script) == "Well, this – is it."
    assert without_cues("Hello [nod], there [smile]. これは[nod]ほんです。") == "Hello, there. これはほんです。"
    assert without_cues("A title\n\n[nod] A text [wave]\nand more.") == "A title\n\nA text\nand more."
    assert without_marks("*[nod] this* one, *that [nod]* one") == "this one, that one"
    plain, cued = (single_clip("a", {"script": s}) for s in ("Well, this is it.", "Well, [nod] this is it. [wave]"))
    assert without_cues(cued.script) == plain.script
    assert speech_source(plain, "", None) == speech_source(cued, "", None)  # the voice need not speak again


def test_words_are_found_by_number_and_by_text():
    text = "“Well” – one, two, 1,234 and one."
    spoken = words("Well", "one", "two", "1,234", "and", "one")
    assert count_words(text) == 6 and find_word(text, "ONE") == 1 and find_word(text, "three") is None
    assert find_word("I don’t like New York or Straße.", "don't") == 1
    assert find_word("I don’t like New York or STRASSE.", "new york") == 3 and find_word("Die STRASSE.", "Straße") == 1
    assert word_at(spoken, text, 3).start == spoken[3].start
    assert word_at(spoken, text, 6) is None and word_at((), text, 0) is None


def test_a_cue_is_due_at_the_stressed_syllable_of_its_word():
    spoken = from_script("Tomorrow we begin.", script_voice("espeak", None, 150), -20.0)
    [cue] = planned("[nod] Tomorrow we begin.", speech=spoken, seconds=spoken.seconds)
    stressed = next(p for p in spoken.phonemes if "ˈ" in p.text)
    assert stressed.start < cue.due < stressed.end and spoken.words[0].start + 0.05 < cue.due


def test_cues_come_in_the_order_of_time_and_say_where_they_stand():
    row = [{"gesture": "smile", "word": "six"}, {"gesture": "tilt", "time": 0.2}, {"gesture": "shake", "word": 5}]
    cues = planned("One two [nod] three four five six. [frown]", cues=row)
    assert [(c.cue.text, c.place) for c in cues] == [
        ("tilt", "0.2 s"),
        ("nod", "word 3, 'three'"),
        ("shake", "word 5, 'five'"),
        ("smile", "word 6, 'six.'"),
        ("frown", "the end"),
    ]
    assert all(c.time is not None for c in cues) and [c.due for c in cues] == sorted(c.due for c in cues)


@pytest.mark.parametrize(
    ("cues", "more", "reason"),
    [
        ([{"gesture": "nod", "time": 30}], {}, "the clip lasts only 8.00 s"),
        ([{"gesture": "stop", "time": 1}], {"moves_arms": False}, "the portrait does not show the hands"),
        ([{"gesture": "stop", "time": 0.2}], {"seconds": 0.4}, "the clip of 0.40 s is too short for it"),
    ],
)
def test_a_cue_that_cannot_be_done_says_why(cues, more, reason):
    [cue] = planned(cues=cues, **more)
    assert cue.time is None and reason in cue.reason
    [outcome] = outcomes([cue], [], [], FPS)
    assert reason in outcome.missed and outcome.done is None and f"[{cues[0]['gesture']}]" in outcome.text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"cues": [{"gesture": "nod", "word": 9}]}, "cue at word 9: there are only 6 words"),
        ({"cues": [{"gesture": "nod", "word": "seven"}]}, "cue at word 'seven': nobody says it"),
        ({"cues": [{"gesture": "stop", "time": 1}], "body": "still"}, "body: still keeps them still"),
        ({"script": "One [stop] two.", "body": "still"}, "body: still keeps them still"),
        ({"script": None, "audio": "a.wav", "transcript": "none", "cues": [{"gesture": "nod", "word": 1}]}, "no words"),
        (
            {"script": None, "audio": "a.wav", "transcript": "Hi.", "cues": [{"gesture": "nod", "word": 2}]},
            "only one word",
        ),
        ({"script": "Hello [nod there."}, "a square bracket that pairs with none"),
        ({"script": "Hello nod] there."}, "a square bracket that pairs with none"),
    ],
)
def test_what_can_never_be_done_is_refused_before_the_batch(row, reason):
    clip = single_clip("a", {k: v for k, v in ({"script": "One two three four five six."} | row).items() if v})
    with pytest.raises(ClipError, match=reason):
        check_cues(clip)


def test_the_words_of_a_recording_may_not_be_known():
    row = {"audio": "a.wav", "cues": [{"gesture": "nod", "word": 1}]}
    [cue] = plan_cues(single_clip("a", row), Speech(np.zeros(SAMPLE_RATE, np.float32), -20.0), 8.0)
    assert cue.time is None and cue.reason == "the words of the recording are not known"
    heard = replace(silent_speech("hello", "you"), recognized="Hello, you.")
    [cue] = plan_cues(single_clip("a", row | {"cues": [{"gesture": "nod", "word": "hello"}]}), heard, 8.0)
    assert cue.place == "word 1, 'Hello,'" and cue.time is not None


def test_of_overlapping_cues_the_first_is_done():
    cues = planned(
        cues=[{"gesture": g, "time": t} for g, t in [("stop", 2.0), ("wave", 2.4), ("nod", 2.1), ("nod", 2.5)]]
    )
    assert [(c.cue.text, c.reason) for c in cues] == [
        ("stop", ""),
        ("nod", ""),
        ("wave", "it overlaps with [stop] at 2 s"),
        ("nod", "it overlaps with [nod] at 2.1 s"),
    ]
    both_hands = [{"gesture": "point: left", "time": 2.0}, {"gesture": "point: right", "time": 2.1}]
    assert all(c.time is not None for c in planned(cues=both_hands))  # one with each hand


# ---- what the motion does ----


@pytest.fixture(scope="module")
def speaker(body):
    return read_avatar(SHIPPED / "ben.safetensors"), body


def perform(script, speaker, style=0, **row):
    """Speech, motion and planned cues of a script, spoken with the reference acting."""
    clip = single_clip("a", {"script": script, "width": 512, "height": 512, **row})
    speech = from_script(clip.script, script_voice(clip.voice, clip.language, clip.rate), -20.0)
    motion = act(speech, STYLES[style], 1, FPS)
    cues = plan_cues(clip, speech, len(motion.poses) / FPS)
    seed = clip_seed(clip)
    cued = with_arm_cues(motion, timed_cues(cues), clip_style(clip, style), seed)
    motion = Retargeting.of_speaker(*speaker, style).apply(motion, cued=cued)
    return clip, with_head_and_face_cues(motion, timed_cues(cues)), cues


def test_forty_one_cues_are_done_within_two_frames_of_their_words(speaker):
    avatar, body = speaker
    avatar = replace(avatar, style=0)
    count = 0
    for script in SCRIPTS:
        clip, motion, cues = perform(script, speaker)
        for outcome in _cue_outcomes(clip, motion, avatar, body, clip_camera(clip, avatar, len(motion.poses)), cues):
            assert not outcome.missed and abs(outcome.done - outcome.due) <= 2, outcome.text
            count += 1
    assert count == 41


def test_what_is_found_can_be_seen_without_the_plan(speaker):
    """The lowest point of a nod, the widest smile, and the fingers of a hand that counts."""
    _, motion, cues = perform("[pause 1] [count: 2] Two things, and [nod] that is [smile] good. [pause 1]", speaker)
    count, nod, smile = (round(c.time * FPS) for c in cues)
    pitch = motion.poses[:, JOINT["head"], 0] + motion.poses[:, JOINT["neck"], 0]
    near = np.arange(nod - 8, nod + 9)
    assert abs(near[pitch[near].argmax()] - nod) <= 2 and pitch[nod] - pitch[nod - 8] > np.radians(6)
    mouth = motion.expression[:, ACTION["mouthSmileLeft"]]
    assert mouth[smile + 8] > 0.5 and mouth[smile - 8] < 0.3
    hand = max(("left", "right"), key=lambda side: motion.poses[count, JOINT[f"{side}_pinky2"], 2] ** 2)
    bend = {
        finger: np.linalg.norm(motion.poses[count, JOINT[f"{hand}_{finger}2"]])
        for finger in ("index", "middle", "ring", "pinky")
    }
    assert max(bend["index"], bend["middle"]) < 0.3 and min(bend["ring"], bend["pinky"]) > 1.0, bend
    turns = np.abs(np.diff(motion.poses[count : count + 5, JOINT[f"{hand}_wrist"]], axis=0))
    assert turns.max() < 0.1  # the hand stays there to be read


def test_a_motion_without_the_cue_is_not_taken_for_it(speaker):
    avatar, body = speaker
    clip, _, cues = perform(SCRIPTS[1], speaker)
    _, other, _ = perform(without_cues(SCRIPTS[1]), speaker)
    joints = body.rest_joints(avatar.betas, avatar.surface)
    found = done_cues(other, timed_cues(cues), 0, clip_seed(clip), joints)
    assert sum(cue.frame is not None for cue in found) <= 1, found


def test_a_late_cue_is_listed_with_its_frame(speaker):
    avatar, body = speaker
    clip, motion, cues = perform("[big] Go on now, please, and do it.", speaker)
    view = clip_camera(clip, avatar, len(motion.poses))
    [outcome] = _cue_outcomes(clip, motion, replace(avatar, style=0), body, view, cues)
    assert outcome.done > outcome.due + 2 and "a [pause 0.7] before it makes room" in outcome.missed
    clip, motion, cues = perform("Go on now, please, and do it.", speaker, cues=[{"gesture": "big", "time": 0.1}])
    [outcome] = _cue_outcomes(clip, motion, replace(avatar, style=0), body, view, cues)
    assert "the clip begins too near to it" in outcome.missed and "pause" not in outcome.missed


def test_a_hand_outside_the_picture_is_a_missed_cue(speaker):
    avatar, body = speaker
    row = {"camera": {"kind": "fixed", "zoom": 2.0}}
    clip, motion, cues = perform("[pause 1] [end] Done. [nod] Yes. [pause 1]", speaker, **row)
    view = clip_camera(clip, avatar, len(motion.poses))
    stop, nod = _cue_outcomes(clip, motion, replace(avatar, style=0), body, view, cues)
    assert stop.missed == "the hand is outside the picture" and not nod.missed


def test_the_eyes_stay_where_they_look_while_the_head_nods(speaker):
    _, plain, _ = perform("Yes, that is so, and it stays so.", speaker)
    nodding = with_head_and_face_cues(plain, [TimedCue(parse_cue("nod"), 1.0)])
    change = nodding.poses - plain.poses
    turned = change[:, JOINT["head"]] + change[:, JOINT["neck"]] + change[:, JOINT["left_eye"]]
    assert np.abs(turned).max() < 1e-5 and np.abs(change[:, JOINT["head"], 0]).max() > 0.1


@pytest.mark.parametrize("fps", [10.0, 25.0, 60.0])
@pytest.mark.parametrize("name", cue_names())
def test_every_cue_is_found_at_every_frame_rate(name, fps, body):
    cue, still = parse_cue(name), act(silent_speech(seconds=5.0), STYLES[0], 1, fps, 0.0)
    timed = [TimedCue(cue, 2.0)]
    cued = with_arm_cues(still, timed, 0, 1)
    motion = with_head_and_face_cues(cued.motion if cued else still, timed)
    [found] = done_cues(motion, timed, 0, 1, body.rest_joints(np.zeros(body.betas, np.float32)))
    assert found.frame is not None and abs(found.frame - 2.0 * fps) <= max(2, 0.08 * fps), found


def test_neighbouring_cues_and_emotions_hide_none(speaker):
    avatar, body = speaker
    row = [{"gesture": "nod", "time": 1.0}, {"gesture": "nod", "time": 1.95}, {"gesture": "smile 0.5", "time": 2.0}]
    clip, motion, cues = perform("This is a longer sentence that goes on for a while.", speaker, cues=row)
    happy = with_head_and_face_cues(with_emotion(motion, (Emotion(0.0, "happy"),)), ())
    view = clip_camera(clip, avatar, len(motion.poses))
    for shown in (motion, happy):
        found = _cue_outcomes(clip, shown, replace(avatar, style=0), body, view, cues)
        assert not any(cue.missed for cue in found), found


def test_cues_at_the_end_of_a_clip_are_done_and_leave_its_end_pose(speaker):
    avatar, body = speaker
    for gesture in ("nod", "tilt", "shake", "smile", "wave"):
        clip, motion, cues = perform(f"Goodbye to all of you and good night. [{gesture}]", speaker)
        view = clip_camera(clip, avatar, len(motion.poses))
        [outcome] = _cue_outcomes(clip, motion, replace(avatar, style=0), body, view, cues)
        assert not outcome.missed, outcome
        _, plain, _ = perform("Goodbye to all of you and good night.", speaker)
        assert np.abs(motion.poses[-1] - plain.poses[-1]).max() < 0.03
        assert np.abs(motion.expression[-1] - plain.expression[-1]).max() < 0.05


def test_a_cue_leaves_the_gestures_before_it_alone(speaker):
    _, plain, _ = perform("We all know this very well, and there is nothing more to say about it now.", speaker)
    _, motion, cues = perform(
        "We all know this very well, and there is nothing more to say about it [wave] now.", speaker
    )
    before = int((cues[0].time - 1.2) * FPS)
    assert before > 30 and np.abs(motion.poses[:before] - plain.poses[:before]).max() < 1e-4
