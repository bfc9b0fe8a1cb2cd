"""The cues of a clip: when each is due, whether it can be made, and whether the finished motion and picture show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stereotalker.acting.cues import Cue, parse_cue
from stereotalker.acting.gesture_planning import stroke_time
from stereotalker.acting.reference_acting import accent_times
from stereotalker.audio.marks import cue_marks
from stereotalker.audio.written_words import count_words, find_word, word_at
from stereotalker.errors import ClipError, UserError
from stereotalker.motion.cues import DoneCue, TimedCue, earliest, latest
from stereotalker.production.clip_speech import spoken_text
from stereotalker.production.manifest import Clip
from stereotalker.records import Speech

MAX_LATE_FRAMES = 2  # a cue that is done farther from its word than this counts as missed
_BEHIND_LAST_WORD_S = 0.3  # when a cue at the end of a script is due
# What hands need to get from the last pose of a gesture to the first one of the next; and how soon the head can make
# the same move again, s.
_BETWEEN_GESTURES_S, _BETWEEN_MOVES_S = 0.3, 0.9


@dataclass(frozen=True)
class PlannedCue:
    """A cue of a clip, before its motion is made."""

    cue: Cue
    place: str  # where its author put it, such as "word 3, 'hello'"
    due: float | None  # s; None: nobody knows
    time: float | None = None  # s, when it is made: as near to `due` as the clip lets; None: it is not made
    reason: str = ""  # why not


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
    """Raise ClipError for a cue of the script that does not exist, and for a faulty mark."""
    for mark in cue_marks(clip.script or ""):
        try:
            parse_cue(mark.text)
        except UserError as error:
            raise ClipError(f"script: {error}") from None


def plan_cues(clip: Clip, speech: Speech, seconds: float, moves_arms: bool = True) -> tuple[PlannedCue, ...]:
    """The cues of a clip in the order of time; those whose time is unknown come last.

    seconds: length of the pictures; moves_arms: whether the speaker's arms gesture at all. Raises ClipError for a cue
    that does not exist.
    """
    check_cues(clip)
    placed = sorted(_placed(clip, speech), key=lambda c: np.inf if c.due is None else c.due)
    planned: list[PlannedCue] = []
    for cue in placed:
        made = _timed(cue, seconds, moves_arms and clip.body != "still", clip.body == "still")
        before = next((p for p in reversed(planned) if p.time is not None and _overlap(p, made)), None)
        if made.time is not None and before:
            made = replace(made, time=None, reason=f"it overlaps with [{before.cue.text}] at {before.place}")
        planned.append(made)
    return tuple(planned)


def timed_cues(planned: Sequence[PlannedCue]) -> tuple[TimedCue, ...]:
    """The cues that are made, at their moments."""
    return tuple(TimedCue(cue.cue, cue.time) for cue in planned if cue.time is not None)


def _placed(clip: Clip, speech: Speech) -> list[PlannedCue]:
    """The cues of the script and of the row, each with the time at which it is due."""
    text, accents = spoken_text(clip, speech), accent_times(speech.phonemes)
    count = count_words(text)

    def at_word(cue: Cue, index: int, behind: str) -> PlannedCue:
        word = word_at(speech.words, text, index)
        place = f"word {index + 1}" + (f", {word.text!r}" if word else "")
        if word:
            return PlannedCue(cue, place, stroke_time(word, accents))
        if behind and index == count and speech.words:
            return PlannedCue(cue, behind, speech.words[-1].end + _BEHIND_LAST_WORD_S)
        reason = "nobody knows when this word is said"
        if not speech.words:
            reason = "the words of the recording are not known"
        elif index >= count:
            reason = f"there are only {count} words"
        return PlannedCue(cue, place, None, reason=reason)

    placed = [at_word(parse_cue(mark.text), mark.word, "the end") for mark in cue_marks(clip.script or "")]
    for key in clip.cues:
        cue = parse_cue(key.gesture)
        if key.time is not None:
            placed.append(PlannedCue(cue, f"{key.time:g} s", key.time))
        elif isinstance(key.word, int):
            placed.append(at_word(cue, key.word - 1, ""))
        else:
            index = find_word(text, str(key.word))
            place = f"word {key.word!r}"
            unsaid = PlannedCue(cue, place, None, reason="nobody says it")
            placed.append(unsaid if index is None else at_word(cue, index, ""))
    return placed


def _timed(cue: PlannedCue, seconds: float, moves_arms: bool, is_still: bool) -> PlannedCue:
    """The cue with the time at which it is made, or the reason why not."""
    if cue.due is None:
        return cue
    if cue.cue.arms and not moves_arms:
        why = "body: still" if is_still else "the portrait does not show the hands, and arms: auto"
        return replace(cue, reason=f"{why} lets the arms not gesture")
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
    return a.face is not None and a.face is b.face and second.time - first.time < a.face.rise_s + a.face.hold_s


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
            elif abs(late) > MAX_LATE_FRAMES:
                side, mend = ("late", "before") if late > 0 else ("early", "behind")
                missed = f"{abs(late)} frames {side}; a [pause 0.7] {mend} it would make room for it"
        result.append(CueOutcome(cue.cue.text, cue.place, due, frame, missed or ""))
    return tuple(result)
