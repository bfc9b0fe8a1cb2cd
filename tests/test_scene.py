"""Scenes: several people in one picture, who speaks when, what the others do, and how the picture is put together."""

import json
import re
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
import yaml
from batch_helpers import SMALL, SMALL_AVATAR
from pydantic import ValidationError

from stereotalker.acting.cues import parse_cue
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.errors import UserError
from stereotalker.media.audio_files import OUTPUT_RATE, read_wav, wav_bytes, write_mixed
from stereotalker.motion.cues import TimedCue
from stereotalker.motion.listening import Listening, Look, with_looks, with_shut_lips
from stereotalker.params import load_params
from stereotalker.production.captions import faults, to_srt, to_vtt
from stereotalker.production.clip_cues import CueOutcome, plan_cues
from stereotalker.production.clip_judgement import _shows_face
from stereotalker.production.conversation import (
    SpokenTurn,
    conversation_captions,
    listening_of,
    speech_of,
    start_times,
    turns_of,
)
from stereotalker.production.manifest import Clip, read_manifest
from stereotalker.production.quality import Examination, Verdict, together
from stereotalker.production.scene import Box, Person, drawing_order, layout
from stereotalker.production.scene_pictures import compose
from stereotalker.records import SAMPLE_RATE, Speech, Timed
from stereotalker.render.cut_out import cut_out
from stereotalker.smplx_layout import ACTION, JOINT
from stereotalker.store.remote import open_store
from stereotalker.tasks.audit import Auditor
from stereotalker.tasks.forget import forget

TWO = [{"avatar": "ava", "at": "left"}, {"avatar": "ben", "at": "right"}]
MLFLOW_NAME = re.compile(r"[\w\-. :/]+", re.ASCII)  # what its metrics may be called
DIALOGUE = "ava: Good morning. [nod] How are you?\nben: Very well, thank you.\n  And you?\nAva: Fine."


def scene(people=TWO, **row) -> Clip:
    return Clip.model_validate({"id": "s", "scene": people, "width": 640, "height": 360} | row)


def speech(*texts, seconds=2.0) -> Speech:
    step = seconds / (len(texts) + 1)
    words = tuple(Timed(text, k * step, (k + 0.7) * step) for k, text in enumerate(texts))
    return Speech(np.full(int(seconds * SAMPLE_RATE), 0.1, np.float32), -20.0, words, words)


def spoken(clip, *speeches) -> tuple[SpokenTurn, ...]:
    turns = turns_of(clip)
    starts = start_times(turns, [each.seconds for each in speeches])
    return tuple(
        SpokenTurn(turn, start, f"k{k}", each)
        for k, (turn, start, each) in enumerate(zip(turns, starts, speeches, strict=True))
    )


# ---- the row ----


def test_people_take_over_what_the_row_says_for_all():
    clip = scene(
        [{"avatar": "ava"}, {"avatar": "ben", "voice": "kumo", "style": "teacher"}],
        script=DIALOGUE,
        voice="heart",
        rate=150,
        gesture=0.5,
    )
    ava, ben = clip.people
    assert (ava.voice, ben.voice, ava.rate, ben.style, ben.gesture) == ("heart", "kumo", 150, "teacher", 0.5)
    assert ava.script == "Good morning. [nod] How are you?\nFine." and ben.script == "Very well, thank you. And you?"
    assert ava.background == ben.background == "transparent" and ava.id != ben.id and ava.camera == clip.camera
    assert Clip(id="a", avatar="ava", script="Hi.").people == (Clip(id="a", avatar="ava", script="Hi."),)


def test_lines_of_a_dialogue_are_spoken_one_after_the_other():
    clip = scene(script=DIALOGUE)
    turns = turns_of(clip)
    assert [(turn.person, turn.line) for turn in turns] == [(0, 1), (1, 2), (0, 4)]
    assert turns[1].clip.script == "Very well, thank you. And you?"
    assert start_times(turns, [2.0, 1.5, 1.0]) == [0.0, 2.3, 4.1]


def test_names_in_a_dialogue_may_stand_without_a_space_and_in_any_capitals():
    people = [{"avatar": "pictures/Dr Grey.png"}, {"avatar": "ben", "name": " José "}, {"avatar": "ava", "name": "Dr"}]
    script = "dr grey:Hi.\r\nJOSE\u0301\uff1a\u306f\u3044\r\n  At 10:30 we go.\nDr: Yes: no.\n\nben said so."
    turns = turns_of(scene(people, script=script))
    assert [(turn.person, turn.clip.script) for turn in turns] == [
        (0, "Hi."),
        (1, "\u306f\u3044 At 10:30 we go."),
        (2, "Yes: no. ben said so."),
    ]
    assert [turn.line for turn in turns] == [1, 2, 4]


def test_a_recording_for_all_can_be_left_out_for_a_listener(tmp_path):
    people = [{"avatar": "ava"}, {"avatar": "ben", "audio": None}]
    clip = scene(people, audio="a.wav", speaker=2, transcript="Hello.", part={"start": 1})
    assert [turn.person for turn in turns_of(clip)] == [0] and clip.people[1].script == ""


def test_a_scene_stands_in_a_table(tmp_path):
    path, cell = tmp_path / "m.csv", json.dumps(TWO).replace('"', '""')
    path.write_text(f'id,avatar,script,scene\na,ava,Hello.,\ns,,"ava: Hi.\nben: Hello.","{cell}"\n')
    assert [len(turns_of(clip)) for clip in read_manifest(path).clips] == [1, 2]
    words = json.dumps([{"avatar": "ava", "script": "Hi."}, {"avatar": "ben"}]).replace('"', '""')
    path.write_text(f'id,avatar,script,scene\na,ava,Hello.,\ns,,,"{words}"\n')
    assert len(turns_of(read_manifest(path).clips[1])) == 1


def test_recordings_begin_together_and_scripts_in_turn():
    people = [
        {"avatar": "ava", "audio": "talk.wav", "speaker": 1},
        {"avatar": "ben", "audio": "talk.wav", "speaker": 2},
        {"avatar": "cleo", "script": "Well."},
        {"avatar": "dan", "script": "Yes.", "start": 1.5},
    ]
    assert start_times(turns_of(scene(people)), [4.0, 5.0, 1.0, 1.0]) == [0.0, 0.0, 5.3, 1.5]
    shared = scene([{"avatar": "ava", "speaker": 1}, {"avatar": "ben", "script": "Hm."}], audio="talk.wav")
    assert [turn.clip.audio is not None for turn in turns_of(shared)] == [True, False]


@pytest.mark.parametrize(
    ("people", "row", "message"),
    [
        ([{"avatar": "ava", "name": f"p{k}"} for k in range(9)], {}, "a scene of 9 people; expected at most 8"),
        (TWO, {"script": "ava: Hi.\ncleo: Hello."}, "line 2 of the dialogue: nobody is called 'cleo'"),
        (TWO, {"script": "Hello there."}, "line 1 of the dialogue: nobody is named who says it"),
        (TWO, {"script": "ava:\nben: Hi."}, "line 1 of the dialogue: ava says nothing in it"),
        (TWO, {"script": ""}, "nobody says anything in the scene"),
        (TWO, {"script": " \n"}, "nobody says anything in the scene"),
        (TWO, {"script": "ava: Hi.\n\nben [nod]: Hello."}, "line 3 of the dialogue: marks stand behind the colon"),
        ([{"avatar": "ava", "name": "Ann"}, {"avatar": "ben", "name": "ann"}], {"script": "Ann: Hi."}, "called 'Ann'"),
        ([{"avatar": "ava", "name": "Host: A"}], {"script": "ava: Hi."}, "without colons and square brackets"),
        (
            [{"avatar": "ava", "at": 0.5}, {"avatar": "ben", "at": 0.55}],
            {"script": "ava: Hi."},
            "of the picture's height",
        ),
        (TWO, {}, "nobody says anything in the scene"),
        ([{"avatar": "ava"}, {"avatar": "ava"}], {"script": "ava: Hi."}, "two people of the scene are called 'ava'"),
        ([{"avatar": "ava", "at": 0.5}, {"avatar": "ben", "at": "center"}], {"script": "ava: Hi."}, "in one place"),
        ([{"avatar": "ava", "script": "Hi."}, {"avatar": "ben"}], {"script": "ava: Hi."}, "words beside the dialogue"),
        ([{"avatar": "ava", "start": 2}, {"avatar": "ben"}], {"script": "ava: Hi."}, "start of ava, who speaks in a"),
        (
            [{"avatar": "ava", "start": 2}, {"avatar": "ben", "script": "Hi."}],
            {},
            "who has nothing to say",
        ),
        (TWO, {"script": "ava: Hi.", "avatar": "ava"}, "avatar stands beside scene"),
        (TWO, {"script": "ava: Hi.", "cues": [{"gesture": "nod", "time": 1}]}, "cues stands beside scene"),
        (TWO, {"script": "ava: Hi.", "stereo": {"layout": "over-under"}}, "a scene has one camera"),
        ([{"avatar": "ava", "at": "top"}], {"script": "ava: Hi."}, "expected left, center, right, or a number"),
        ([{"avatar": "ava", "at": True}], {"script": "ava: Hi."}, "expected left, center, right, or a number"),
        ([{"avatar": "ava", "colour": "red"}], {"script": "ava: Hi."}, "colour"),
        ([{"at": "left"}], {"script": "ava: Hi."}, "avatar"),
        ([{"avatar": "ava", "audio": "a.wav", "script": "Hi."}], {}, "give audio or script, one of them"),
        (["ava"], {"script": "ava: Hi."}, "scene.0"),
        ([], {"script": "ava: Hi."}, "expected a list of people such as"),
        ({"avatar": "ava"}, {"script": "ava: Hi."}, "expected a list of people such as"),
    ],
)
def test_faults_of_a_scene_are_one_clear_line(people, row, message):
    with pytest.raises(ValidationError) as error:
        scene(people, **row)
    assert message in str(error.value)


def test_a_manifest_with_a_scene_is_read_with_its_paths(tmp_path):
    row = {"id": "s", "scene": [{"avatar": "ava", "audio": "a.wav"}, {"avatar": "b.png", "end_pose": "e.npz"}]}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"clips": [row | {"avatar": "ben"}]}))
    with pytest.raises(UserError, match="avatar stands beside scene"):
        read_manifest(path)
    path.write_text(yaml.safe_dump({"defaults": {"language": "de", "avatar": "ben"}, "clips": [row]}))
    [clip] = read_manifest(path).clips
    first, second = clip.people
    assert first.audio == tmp_path / "a.wav" and second.avatar == str(tmp_path / "b.png")
    assert second.end_pose == tmp_path / "e.npz" and first.language == "de" and clip.scene[1].label == "b"


def test_a_dialogue_becomes_a_clip_in_every_language(tmp_path):
    row = {"id": "s", "scene": TWO, "script": {"en-us": "ava: Hello.\nben: Hi.", "de": "ava: Hallo."}}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"clips": [row]}, sort_keys=False))
    english, german = read_manifest(path).clips
    assert english.id == "s-en-us" and len(turns_of(english)) == 2
    assert [person.language for person in german.people] == ["de", "de"] and len(turns_of(german)) == 1


# ---- places and pictures ----


def people_at(*places, behind=0.0) -> list[Person]:
    return [Person(avatar=f"p{k}", at=at, behind=behind) for k, at in enumerate(places)]


def test_everybody_has_room_and_stands_on_the_lower_edge():
    left, right = layout(people_at(0.25, 0.75), (360, 640))
    assert left.height == right.height == 360 and left.left + left.width / 2 == pytest.approx(160, abs=1)
    crowd = layout(people_at(None, None, None, None, None, None, None, None), (360, 640))
    assert len({box.height for box in crowd}) == 1 and crowd[0].height < 150
    assert all(box.top + box.height == 360 and box.height % 2 == box.width % 2 == 0 for box in crowd)
    row = [*people_at(0.3, 0.7), *people_at(0.5, behind=1.0)]
    front, _, back = layout(row, (360, 640))
    assert back.height == pytest.approx(front.height * 0.8, abs=2)
    assert drawing_order(row) == [2, 0, 1]
    upright = layout(people_at(0.25, 0.75), (640, 360))
    assert upright[0].height < 640 / 2
    [alone] = layout(people_at(0.2), (2160, 2160))
    assert alone.width <= 2160 and alone.height == 2160


def test_a_face_that_is_cut_off_or_covered_is_not_asked_for():
    row = [*people_at(0.02, 0.5), *people_at(0.5, behind=1.0), *people_at(0.9, behind=1.0)]
    boxes, order = layout(row, (360, 640)), drawing_order(row)
    assert [_shows_face(k, boxes, order, (360, 640)) for k in range(4)] == [False, True, False, True]


def test_the_front_covers_the_back_and_the_background_shows_between():
    def person(color, alpha=255):
        picture = np.zeros((3, 8, 8, 4), np.uint8)
        picture[:, 2:, 2:6] = (*color, alpha)
        return iter([picture[:1], picture[1:]])

    back, front = (255, 0, 0), (0, 0, 255)
    background = np.full((8, 16, 3), 100, np.uint8)
    layers = [(Box(0, 0, 8, 8), person(back)), (Box(2, 0, 8, 8), person(front, 128))]
    frames = np.concatenate(list(compose(layers, background, (8, 16))))
    assert frames.shape == (3, 8, 16, 3) and np.array_equal(frames[0, 0], background[0])
    assert tuple(frames[0, 4, 3]) == back and tuple(frames[0, 4, 15]) == (100, 100, 100)
    assert np.allclose(frames[0, 4, 4], (127, 0, 128), atol=1) and np.allclose(frames[2, 4, 7], (50, 50, 178), atol=1)
    layers = [(Box(-4, 2, 8, 8), person(back)), (Box(2, 0, 8, 8), person(front, 128))]
    clear = np.concatenate(list(compose(layers, None, (8, 16))))
    assert clear.shape == (3, 8, 16, 4) and clear[0, 4, 12, 3] == 0 and tuple(clear[0, 5, 0]) == (*back, 255)
    assert tuple(clear[0, 4, 6]) == (*front, 128)


def test_a_light_wall_leaves_no_rim_around_dark_hair():
    plate = torch.full((1, 3, 64, 64), 0.95)
    frame, cover = plate.clone(), torch.zeros(1, 1, 64, 64)
    cover[..., 10:54, 10:54] = 1  # one pixel too much all around
    frame[..., 11:53, 11:53] = 0.1
    cut = cut_out(frame, plate, cover)
    assert cut[0, 3, 10, 20:40].max() < 0.05 and cut[0, 3, 11:53, 11:53].min() > 0.95
    assert cut[0, :3, 10, 20:40].max() < 0.3
    # A collar that is neither a mixture of wall and cloth nor like the wall is the person's.
    wall, shirt = torch.full((1, 3, 64, 64), 0.5), torch.full((1, 3, 64, 64), 0.5)
    shirt[..., 10:54, 10:54], shirt[..., 12:52, 12:52] = 0.9, 0.1
    assert torch.allclose(cut_out(shirt, wall, cover)[:, 3:], cover)
    # A finger has no inside whose color would be known; and nothing is known of a color like that of the wall.
    finger, thin = plate.clone(), torch.zeros(1, 1, 64, 64)
    finger[..., 20:40, 30:33], thin[..., 20:40, 30:33] = 0.5, 1
    assert torch.equal(cut_out(finger, plate, thin)[:, 3:], thin)
    assert torch.allclose(cut_out(plate, plate, cover)[:, 3:], cover)


# ---- speech ----


def test_speech_of_a_person_is_silent_while_others_speak():
    clip = scene(script=DIALOGUE)
    turns = spoken(clip, speech("Good", "morning"), speech("Very", "well"), speech("Fine", seconds=1.0))
    seconds = max(turn.end for turn in turns)
    ava = speech_of(0, turns, seconds)
    assert ava.seconds == pytest.approx(5.6) and [word.text for word in ava.words] == ["Good", "morning", "Fine"]
    assert ava.words[2].start == turns[2].start and not ava.samples[2 * SAMPLE_RATE : int(4.6 * SAMPLE_RATE)].any()
    assert np.allclose(ava.samples[: 2 * SAMPLE_RATE], 0.1)
    unknown = spoken(clip, speech("Good"), speech("Very"), speech(seconds=1.0))
    assert speech_of(0, unknown, 5.6).unaligned == ((unknown[2].start, unknown[2].end),)
    nobody = speech_of(1, turns[:1], 2.0)
    assert not nobody.samples.any() and nobody.words == () and nobody.loudness == -np.inf


def test_sounds_are_mixed_at_their_times(tmp_path):
    tone = 0.2 * np.sin(np.arange(OUTPUT_RATE) * 0.05).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(wav_bytes(np.stack([tone, tone])))
    sounds = [(tmp_path / "a.wav", 0.0), (tmp_path / "a.wav", 2.5)]
    level = write_mixed([sounds], -20.0, tmp_path / "mixed.wav")
    apart = write_mixed([[sound] for sound in sounds], -20.0, tmp_path / "apart.wav")
    assert apart == level and np.array_equal(read_wav(tmp_path / "apart.wav"), read_wav(tmp_path / "mixed.wav"))
    mixed = read_wav(tmp_path / "mixed.wav")
    assert level == pytest.approx(-20.0, abs=0.5) and len(mixed) == pytest.approx(3.5 * OUTPUT_RATE, abs=2)
    loud = np.abs(mixed[:, 0].astype(float)).reshape(-1, OUTPUT_RATE // 10).max(1) > 100
    assert loud[:10].all() and not loud[10:25].any() and loud[25:35].all()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_captions_name_who_speaks_and_do_not_overlap():
    clip = scene(script=DIALOGUE, captions="files")
    long = speech("Good", "morning.", "How", "are", "you?", seconds=2.5)
    turns = spoken(clip, long, speech("Very", "well,", "thank", "you.", "And", "you?"), speech("Fine."))
    captions = conversation_captions(clip, turns, 7.1)
    assert [caption.speaker for caption in captions] == ["ava", "ben", "ava"] and not faults(captions, 7.1)
    assert "<v ben>Very" in to_vtt(captions) and "<v" not in to_srt(captions)
    assert captions[1].lines[0][0].start == pytest.approx(turns[1].start)
    people = [{"avatar": "ava", "script": "x"}, {"avatar": "ben", "script": "y", "start": 0.5}]
    both = scene(people, captions="files")
    at_once = spoken(both, speech("We", "speak", "at", "once."), speech("So", "we", "do."))
    first, second = conversation_captions(both, at_once, 2.5)
    assert first.end >= first.lines[-1][-1].end > second.start  # nobody's words are cut off


def test_cues_in_a_dialogue_fall_into_their_line():
    text = "ava: Hello everybody. [wave]\nben: Hi.\nava: [nod] Good to see you. [pause 1]"
    clip = scene(script=text)
    turns = spoken(clip, speech("Hello", "everybody."), speech("Hi."), speech("Good", "to", "see", "you.", seconds=3.0))
    own = [turn for turn in turns if turn.turn.person == 0]
    wave, nod = plan_cues(clip.people[0], speech_of(0, turns, 7.6), 7.6, True, own)
    assert wave.place == "line 1, the end" and wave.due < 2.3
    assert nod.place == "line 3, word 1, 'Good'" and nod.due == pytest.approx(4.6, abs=0.4)


# ---- listening ----


def conversation():
    clip = scene(script="ava: One.\nben: Two.\nava: Three.")
    turns = spoken(clip, *(speech(*"one two three four five six".split(), seconds=6.0) for _ in range(3)))
    return turns, max(turn.end for turn in turns)


def test_a_listener_looks_at_who_speaks_and_nods():
    turns, seconds = conversation()
    ava, ben = (listening_of(k, (160, 480), turns, seconds, seed=1) for k in (0, 1))
    assert [look.start for look in ben.looks] == pytest.approx([0.0, 12.6], abs=0.1) and len(ava.looks) == 1
    assert ava.looks[0].azimuth > 0 > ben.looks[0].azimuth  # ben is at ava's left hand
    start, end = ava.silent[0]
    assert start == pytest.approx(5.6, abs=0.5) and end == pytest.approx(12.45, abs=0.3)
    assert ben.nods and all(any(look.start < time < look.end for look in ben.looks) for time in ben.nods)
    assert listening_of(1, (160, 480), turns, seconds, seed=1) == ben
    assert listening_of(1, (160, 480), turns, seconds, seed=2).nods != ben.nods


def test_without_words_the_loudness_tells_who_speaks():
    clip = scene([{"avatar": "ava", "audio": "a.wav"}, {"avatar": "ben", "audio": "b.wav"}], transcript="none")
    sounds = [np.zeros(8 * SAMPLE_RATE, np.float32) for _ in range(2)]
    sounds[0][: 3 * SAMPLE_RATE], sounds[1][4 * SAMPLE_RATE :] = 0.3, 0.2
    turns = spoken(clip, *(Speech(sound, -20.0) for sound in sounds))
    ben = listening_of(1, (160, 480), turns, 8.0, seed=0)
    assert ben.silent[0][0] == 0 and ben.silent[0][1] == pytest.approx(3.85, abs=0.1)
    assert ben.looks[0].start == 0 and 3.0 <= ben.looks[0].end <= 3.9


@pytest.fixture(scope="module")
def talking():
    words = tuple(Timed(text, k * 0.3, k * 0.3 + 0.25) for k, text in enumerate("a b c d e f g h i j k l".split()))
    phonemes = tuple(Timed("AA1", word.start, word.end) for word in words)
    return act(Speech(np.zeros(4 * SAMPLE_RATE, np.float32), -20.0, words, phonemes), STYLES[0], 1, 25.0)


def test_the_lips_of_a_listener_are_shut(talking, body):
    shut = with_shut_lips(talking, [(1.0, 3.0)])
    before, after = body.lip_aperture(talking), body.lip_aperture(shut)
    assert before[30:70].max() > 3 and after[30:70].max() <= 0
    assert np.array_equal(shut.poses[:25], talking.poses[:25])
    assert np.array_equal(shut.expression[:25], talking.expression[:25])
    assert np.array_equal(shut.expression[:, ACTION["browInnerUp"]], talking.expression[:, ACTION["browInnerUp"]])
    whole = body.lip_aperture(with_shut_lips(talking, [(0.0, 4.0)]))
    assert whole.max() <= 0 and with_shut_lips(talking, []).poses is not None


def test_eyes_and_head_turn_to_who_speaks(talking):
    turned = with_looks(talking, [Look(1.0, 3.0, 32.0)])
    yaw = turned.poses[:, JOINT["head"], 1] - talking.poses[:, JOINT["head"], 1]
    assert np.degrees(yaw[45:70]).min() > 10 and abs(yaw[:24]).max() < 1e-3 and abs(yaw[-5:]).max() < 0.1
    assert np.abs(np.diff(yaw)).max() < 0.06  # no jerk
    assert with_looks(talking, []) is talking
    away = with_looks(talking, [Look(0.5, 2.0, 32.0), Look(2.0, 4.0, -32.0)])
    assert away.poses[45, JOINT["head"], 1] > 0 > away.poses[80, JOINT["head"], 1]


def test_a_prescribed_pose_stays_while_others_speak(talking):
    for edit in (
        lambda motion, *ends: with_looks(motion, [Look(0.0, 4.0, 32.0)], *ends),
        lambda motion, *ends: with_shut_lips(motion, [(0.0, 4.0)], *ends),
    ):
        free, kept = edit(talking, False, False), edit(talking, True, True)
        for frame in (0, -1):
            assert np.array_equal(kept.poses[frame], talking.poses[frame])
            assert not np.array_equal(free.poses[frame], talking.poses[frame])
        assert np.allclose(kept.poses[50], free.poses[50])


def test_nods_are_cues_that_give_way_to_those_of_a_director():
    listening = Listening(nods=(1.0, 4.0))
    assert [cue.time for cue in listening.cues] == [1.0, 4.0]
    asked = [TimedCue(parse_cue("shake"), 4.5), TimedCue(parse_cue("smile"), 1.0)]
    assert listening.beside(asked).nods == (1.0,)


# ---- verdict ----


def test_the_verdict_on_a_scene_names_who_is_at_fault():
    measures = {"frames": 100.0, "lufs": -20.0, "faces": 1.0}
    good = Examination(Verdict("pass", (), measures), b"poster")
    late = Verdict("fail", ("the lips lag by +5.0 frames", "a black frame"), measures | {"faces": 0.5})
    dark = replace(good, verdict=Verdict("review", ("a black frame",), measures))
    both = together({"ava": dark, "ben": replace(good, verdict=late)}, [])
    assert both.verdict.verdict == "fail" and both.poster == b"poster"
    assert both.verdict.reasons == ("a black frame", "ben: the lips lag by +5.0 frames")
    assert both.verdict.measures == {"frames": 100.0, "lufs": -20.0, "ava.faces": 1.0, "ben.faces": 0.5}
    missed = CueOutcome("nod", "ava, word 1", None, None, "nobody knows when")
    cued = together({"ava": good, "Ann O'Hara": good}, [missed]).verdict
    assert cued.verdict == "review" and cued.reasons == (missed.text,) and cued.cues == (missed,)
    assert all(MLFLOW_NAME.fullmatch(name) for name in cued.measures)


# ---- the whole way ----


@pytest.mark.integration
def test_a_scene_is_made_recorded_and_forgotten(tmp_path, home, run_batch):
    people = [{"avatar": SMALL_AVATAR, "name": "ann"}, {"avatar": "ben"}]
    row = {"id": "s", "scene": people, "script": "ann: [nod] Hello there, ben.\nben: Hello.", "captions": "files"}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"defaults": SMALL | {"voice": "espeak", "background": "#203040"}, "clips": [row]}))
    [result] = run_batch(path).results
    assert result.state == "done", result.error
    assert result.measures["ann.listening_mm"] <= 0 and result.measures["ben.listening_mm"] <= 0
    assert [cue.place for cue in result.cues] == ["ann, line 1, word 1, 'Hello'"]
    out = tmp_path / "out"
    with av.open(str(out / result.video)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (64, 64)
    record = json.loads((out / result.record).read_text())["made"]
    assert [person["name"] for person in record["people"]] == ["ann", "ben"] and len(record["store"]["motion"]) == 2
    auditor = Auditor(home, load_params().releases)
    for avatar in (SMALL_AVATAR, "ben"):
        assert [clip.clip for clip in auditor.clips(avatar=avatar)] == ["s"]
    links = auditor.of_clip("s").links
    assert {link.name: link.state for link in links if " of " in link.name} == {
        "avatar of ann": "whole",
        "consent of ann": "broken",  # none was asked for
        "avatar of ben": "whole",
        "consent of ben": "whole",
    }
    assert run_batch(path).results[0].made == []
    receipt, _ = forget(SMALL_AVATAR, home, open_store(str(home.store), home.store))
    assert receipt.clips and not (out / result.video).exists()
