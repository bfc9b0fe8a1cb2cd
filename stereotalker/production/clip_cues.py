"""The cues of a clip: when each is due, whether it can be made, and whether the finished motion and picture show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stereotalker.acting.cues import Cue, parse_cue
from stereotalker.acting.gesture_planning import stroke_time
from stereotalker.acting.reference_acting import accent_times
from stereotalker.audio.marks import cue_marks, without_marks
from stereotalker.audio.written_words import count_words, find_word, word_at
from stereotalker.errors import ClipError, UserError
from stereotalker.motion.cues import DoneCue, TimedCue, earliest, latest
from stereotalker.production.clip_speech import spoken_text
from stereotalker.production.conversation import SpokenTurn
from stereotalker.production.manifest import Clip
from stereotalker.records import Speech

# A cue that is done farther from its word than this counts as missed: two frames, and 80 ms at high frame rates.
_MAX_LATE_FRAMES, _MAX_LATE_S = 2, 0.08
_AFTER_LAST_WORD_S = 0.3  # when a cue at the end of a script is due, if the clip lasts long enough
# What hands need to get from the last pose of a gesture to the first one of the next, and how soon the head can move
# again, s.
_BETWEEN_GESTURES_S, _BETWEEN_MOVES_S = 0.3, 0.9


@dataclass(frozen=True)
class PlannedCue:
    """A cue of a clip, before its motion is made."""

    cue: Cue
    place: str  # where its author put it, such as "word 3, 'hello'"
    due: float | None  # s; None: nobody knows
    time: float | None = None  # s, when it is made: as near to `due` as the clip lets; None: it is not made
    reason: str = ""  # why not
    is_in_script: bool = False  # in its brackets


@dataclass(frozen=True)
class CueOutcome:
    """What became of a cue, for the row of its clip."""

    cue: str
    place: str
    due: int | None  # frame; None: nobody knows
    done: int | None  # frame; None: it is not done
    missed: str = ""  # why its author should not count on it; empty if it is done

    @property
    def text(self) -> str:
        """One line."""
        return f"cue [{self.cue}] at {self.place}: {self.missed or f'done at frame {self.done}'}"


def check_cues(clip: Clip) -> None:
    """Raise ClipError for a cue that cannot be made whatever the speech is, and for a faulty mark."""
    cues = [parse_cue(key.gesture) for key in clip.cues]
    for mark in cue_marks(clip.script or ""):
        try:
            cues.append(parse_cue(mark.text))
        except UserError as error:
            raise ClipError(f"script: {error}") from None
    if clip.body == "still" and (arms := [cue.text for cue in cues if cue.arms]):
        raise ClipError(f"cue {arms[0]!r} moves the arms, and body: still keeps them still; leave one of them out")
    text = clip.given_transcript if clip.script is None else without_marks(clip.script)
    for key in clip.cues:
        if key.word is None or (text is None and clip.is_recognized):
            continue
        if text is None:
            raise ClipError(f"cue {key.gesture!r} at word {key.word!r}: with transcript: none no words are known")
        _index_of(key.word, text)


def _index_of(word: int | str, text: str) -> int:
    """The number of a cue's word in a text, from 0. Raises ClipError if it has no such word."""
    count = count_words(text)
    index = word - 1 if isinstance(word, int) else find_word(text, word)
    if index is None:
        raise ClipError(f"cue at word {word!r}: nobody says it")
    if index >= count:
        raise ClipError(f"cue at word {word}: there {'is only one word' if count == 1 else f'are only {count} words'}")
    return index


def plan_cues(
    clip: Clip, speech: Speech, seconds: float, moves_arms: bool = True, turns: Sequence[SpokenTurn] = ()
) -> tuple[PlannedCue, ...]:
    """The cues of a clip of one person in the order of time; those whose time is unknown come last.

    seconds: length of the pictures; moves_arms: whether the speaker's arms gesture at all; turns: what the person says
    in a dialogue, empty: the speech is all one. Raises ClipError for a cue that does not exist.
    """
    check_cues(clip)
    found = _in_row(clip, speech, seconds)
    if not turns:
        found += _in_script(clip, speech, seconds)
    for turn in turns:
        where = f"line {turn.turn.line}, " if turn.turn.line else ""
        for cue in _in_script(turn.turn.clip, turn.speech, seconds - turn.start):
            due = None if cue.due is None else cue.due + turn.start
            found.append(replace(cue, due=due, place=where + cue.place))
    placed = sorted(found, key=lambda c: np.inf if c.due is None else c.due)
    planned: list[PlannedCue] = []
    for cue in placed:
        made = _timed(cue, seconds, moves_arms)
        before = next((p for p in reversed(planned) if p.time is not None and _overlap(p, made)), None)
        if made.time is not None and before:
            made = replace(made, time=None, reason=f"it overlaps with [{before.cue.text}] at {before.place}")
        planned.append(made)
    return tuple(planned)


def timed_cues(planned: Sequence[PlannedCue]) -> tuple[TimedCue, ...]:
    """The cues that are made, at their moments."""
    return tuple(TimedCue(cue.cue, cue.time) for cue in planned if cue.time is not None)


def _in_script(clip: Clip, speech: Speech, seconds: float) -> list[PlannedCue]:
    """The cues in the brackets of a script, each with the time at which it is due. One at the end has time to end."""
    marks = cue_marks(clip.script or "")
    return [
        replace(_at_word(parse_cue(mark.text), mark.word, clip, speech, seconds, "the end"), is_in_script=True)
        for mark in marks
    ]


def _in_row(clip: Clip, speech: Speech, seconds: float) -> list[PlannedCue]:
    """The cues of a row, each with the time at which it is due."""
    text, placed = spoken_text(clip, speech), []
    for key in clip.cues:
        cue = parse_cue(key.gesture)
        if key.time is not None:
            placed.append(PlannedCue(cue, f"{key.time:g} s", key.time))
            continue
        assert key.word is not None
        try:
            placed.append(_at_word(cue, _index_of(key.word, text), clip, speech, seconds))
        except ClipError as error:
            reason = str(error).partition(": ")[2] if speech.words else "the words of the recording are not known"
            placed.append(PlannedCue(cue, f"word {key.word!r}", None, reason=reason))
    return placed


def _at_word(cue: Cue, index: int, clip: Clip, speech: Speech, seconds: float, end: str = "") -> PlannedCue:
    """The cue at a word. end: what the place behind the last word is called; empty: there is no such place."""
    text = spoken_text(clip, speech)
    word = word_at(speech.words, text, index)
    place = f"word {index + 1}" + (f", {word.text!r}" if word else "")
    if word:
        return PlannedCue(cue, place, stroke_time(word, accent_times(speech.phonemes)))
    if end and index == count_words(text) and speech.words:
        due = min(speech.words[-1].end + _AFTER_LAST_WORD_S, seconds - latest(cue))
        return PlannedCue(cue, end, max(due, earliest(cue)))
    return PlannedCue(cue, place, None, reason="nobody knows when this word is said")


def _timed(cue: PlannedCue, seconds: float, moves_arms: bool) -> PlannedCue:
    """The cue with the time at which it is made, or the reason why not."""
    if cue.due is None:
        return cue
    if cue.cue.arms and not moves_arms:
        return replace(cue, reason="the portrait does not show the hands, and arms: auto keeps them still")
    if cue.due > seconds:
        return replace(cue, reason=f"the clip lasts only {seconds:.2f} s")
    first, last = earliest(cue.cue), seconds - latest(cue.cue)
    if first > last:
        return replace(cue, reason=f"the clip of {seconds:.2f} s is too short for it")
    return replace(cue, time=float(np.clip(cue.due, first, last)))


def _overlap(first: PlannedCue, second: PlannedCue) -> bool:
    """Whether one body cannot make both."""
    a, b = first.cue, second.cue
    if first.time is None or second.time is None:
        return False
    if a.arms and b.arms and not (a.hand and b.hand and a.hand != b.hand):
        begins, ends = second.time + b.arms.moves[0][0], first.time + a.arms.moves[-1][0]
        if begins < ends + _BETWEEN_GESTURES_S:
            return True
    if a.head and b.head and second.time - first.time < _BETWEEN_MOVES_S:
        return True
    if a.face is None or a.face is not b.face:
        return False
    return second.time - first.time < a.face.rise_s + a.face.hold_s + a.face.fall_s


def outcomes(
    planned: Sequence[PlannedCue], done: Sequence[DoneCue], hands_in_picture: Sequence[bool], fps: float
) -> tuple[CueOutcome, ...]:
    """What became of the cues.

    done, hands_in_picture: for each cue that is made, what the motion shows (see `cues.done_cues`), and whether its
    hands are in the picture.
    """
    found, shown = iter(done), iter(hands_in_picture)
    result = []
    for cue in planned:
        due = None if cue.due is None else int(cue.due * fps)
        frame = missed = None
        if cue.time is None:
            missed = cue.reason
        else:
            frame, is_shown = next(found).frame, next(shown)
            late = 0 if frame is None or due is None else frame - due
            if frame is None:
                missed = "the motion does not show it"
            elif not is_shown:
                missed = "the hand is outside the picture"
            elif cue.due is not None and abs(late) > max(_MAX_LATE_FRAMES, round(_MAX_LATE_S * fps)):
                missed = f"{abs(late)} frames {'late' if late > 0 else 'early'}"
                if abs(cue.time - cue.due) > _MAX_LATE_S:
                    missed += f": the clip {'begins' if late > 0 else 'ends'} too near to it"
                    missed += f"; a [pause 0.7] {'before' if late > 0 else 'after'} it makes room" * cue.is_in_script
        result.append(CueOutcome(cue.cue.text, cue.place, due, frame, missed or ""))
    return tuple(result)
