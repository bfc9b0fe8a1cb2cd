"""The conversation of a scene: who speaks when, the speech of each person, and what the others do meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from stereotalker.media.burnt_captions import Caption
from stereotalker.motion.listening import Listening, Look
from stereotalker.production.captions import GAP_S, MIN_S
from stereotalker.production.clip_speech import clip_captions
from stereotalker.production.manifest import Clip
from stereotalker.production.scene import dialogue
from stereotalker.records import SAMPLE_RATE, Speech, Timed

_PAUSE_S = 0.3  # between somebody who has ended and the next one
_STEP_S = 0.05  # of the time line on which people speak and listen
# Pauses within speech that count as speech, and what belongs to speech before and behind its words, s.
_BREATH_S, _BEFORE_S, _AFTER_S = 0.4, 0.15, 0.2
_LOUD = 0.05  # RMS level of speech whose words are not known, in parts of the loudest
# A listener turns after this time, looks on for this time when the other has ended, and turns to nothing shorter.
_NOTICE_S, _LINGER_S, _SHORTEST_LOOK_S = 0.25, 0.8, 0.7
_LOOK_DEG = 32.0  # turn to somebody beside; people who talk to each other before a camera stay half turned to it
# A nod comes when the other pauses, at the earliest so long after the look began, and so long after the nod before;
# and in this share of such pauses.
_FIRST_NOD_S, _BETWEEN_NODS_S, _NOD_SHARE = 1.2, 2.5, 0.6
_PHRASE_S = 0.15  # pause that ends a phrase
_NOD_SPAN_S = 0.9  # time that a nod needs until its speaker speaks, or the clip ends


@dataclass(frozen=True)
class Turn:
    """What somebody says in one go."""

    person: int  # index into the people of the clip
    clip: Clip  # of that person, with these words alone
    start: float | None = None  # s into the clip; None: when the turn before has ended
    line: int = 0  # of the dialogue, from 1; 0: there is none


@dataclass(frozen=True)
class SpokenTurn:
    """A turn with its speech at its time."""

    turn: Turn
    start: float  # s
    key: str  # of its entry in the store
    speech: Speech

    @property
    def end(self) -> float:
        """When it ends, s."""
        return self.start + self.speech.seconds


def turns_of(clip: Clip) -> tuple[Turn, ...]:
    """What is said in a clip, in the order in which its author wrote it; one turn if it shows one person."""
    people = clip.people
    if not clip.scene:
        return (Turn(0, clip, 0.0),)
    if clip.script is not None:
        return tuple(
            Turn(line.person, people[line.person].model_copy(update={"script": line.text}), line=line.number)
            for line in dialogue(clip.script, clip.scene)
        )
    turns = []
    for k, (person, alone) in enumerate(zip(clip.scene, people, strict=True)):
        if person.has_words:
            turns.append(Turn(k, alone, 0.0 if person.audio is not None and person.start is None else person.start))
    return tuple(turns)


def start_times(turns: Sequence[Turn], seconds: Sequence[float]) -> list[float]:
    """When each turn begins, s, in whole milliseconds. seconds: the length of each."""
    starts: list[float] = []
    for turn in turns:
        ended = starts[-1] + seconds[len(starts) - 1] + _PAUSE_S if starts else 0.0
        starts.append(round(ended if turn.start is None else turn.start, 3))
    return starts


def conversation_captions(
    clip: Clip, turns: Sequence[SpokenTurn], seconds: float, are_burnt: bool = False
) -> tuple[Caption, ...]:
    """The captions of a clip that asks for them, see `clip_captions`. A new caption begins where another speaks.

    seconds: of the clip.
    """
    if not clip.scene:
        return clip_captions(clip, turns[0].speech, are_burnt)
    shape = {"captions": clip.captions, "height": clip.height, "width": clip.width}
    found: list[Caption] = []
    for turn in turns:
        label = clip.scene[turn.turn.person].label
        own = clip_captions(turn.turn.clip.model_copy(update=shape), turn.speech, are_burnt)
        found += [caption.moved(turn.start, label) for caption in own]
    found.sort(key=lambda caption: caption.start)
    # Of two who speak at once, both captions stay for their words.
    ends = [
        max(following.start - GAP_S, caption.start + MIN_S, caption.lines[-1][-1].end)
        for caption, following in pairwise(found)
    ]
    return tuple(
        replace(caption, end=min(caption.end, end)) for caption, end in zip(found, [*ends, seconds], strict=False)
    )


def speech_of(person: int, turns: Sequence[SpokenTurn], seconds: float) -> Speech:
    """The speech of one person over the whole clip of `seconds` s: silence, and the turns in their places."""
    samples = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    own = sorted((turn for turn in turns if turn.turn.person == person), key=lambda turn: turn.start)
    for turn in own:
        first = round(turn.start * SAMPLE_RATE)
        part = samples[first : first + len(turn.speech.samples)]
        part += turn.speech.samples[: len(part)]

    def moved(times: Sequence[Timed], by: float) -> tuple[Timed, ...]:
        return tuple(Timed(t.text, t.start + by, t.end + by) for t in times)

    unaligned = [(t.start + start, t.start + end) for t in own for start, end in t.speech.unaligned]
    # The words of some turns may be known, and those of others not.
    unaligned += [(t.start, t.end) for t in own if not t.speech.words and not t.speech.unaligned]
    words = tuple(word for t in own for word in moved(t.speech.words, t.start))
    return Speech(
        np.clip(samples, -1, 1),
        max((turn.speech.loudness for turn in own), default=-np.inf),
        words,
        tuple(phoneme for t in own for phoneme in moved(t.speech.phonemes, t.start)),
        " ".join(t.speech.recognized for t in own if t.speech.recognized),
        next((t.speech.recognized_language for t in own if t.speech.recognized_language), ""),
        tuple(sorted(unaligned)) if words else (),
        next((t.speech.unaligned_reason for t in own if t.speech.unaligned_reason), ""),
    )


def listening_of(
    person: int, centers: Sequence[float], turns: Sequence[SpokenTurn], seconds: float, seed: int
) -> Listening:
    """What a person does while others speak.

    centers: where the people stand, in px from the left edge of the picture; seconds: of the clip; seed: of the nods.
    """
    count = int(np.ceil(seconds / _STEP_S))
    speaking = np.stack([_speaking(k, turns, count) for k in range(len(centers))])
    others = np.delete(speaking, person, 0).any(0)
    looks: list[Look] = []
    nods: list[float] = []
    rng = np.random.default_rng([seed, 83])
    for start, end, other in _looked_at(person, speaking):
        beside = np.sign(centers[other] - centers[person])
        # What is right in the picture is at the person's left hand.
        looks.append(Look(start, end, float(beside * _LOOK_DEG)))
        nods += _nods(start, end, other, turns, nods[-1] if nods else -np.inf, rng)
    silent, listens = _spans(~speaking[person]), _spans(~speaking[person] & others)
    return Listening(tuple(silent), tuple(listens), tuple(looks), tuple(nods))


def _speaking(person: int, turns: Sequence[SpokenTurn], count: int) -> np.ndarray:
    """Whether a person speaks in each step of the time line, bool [count]; short pauses are bridged."""
    speaks = np.zeros(count, bool)
    for start, end in _spoken(person, turns):
        first, last = (start - _BEFORE_S) / _STEP_S, (end + _AFTER_S) / _STEP_S
        speaks[max(int(first), 0) : int(np.ceil(last))] = True
    for start, end in _spans(~speaks):
        if 0 < start and end < count * _STEP_S - 1e-6 and end - start < _BREATH_S:
            speaks[round(start / _STEP_S) : round(end / _STEP_S)] = True
    return speaks


def _spoken(person: int, turns: Sequence[SpokenTurn]) -> list[tuple[float, float]]:
    """When a person speaks: start and end, s, of the words, or of loud sound where they are not known."""
    spans = []
    for turn in turns:
        if turn.turn.person != person:
            continue
        known = [(word.start, word.end) for word in turn.speech.words]
        found = [*known, *turn.speech.unaligned] if known else _loud(turn.speech)
        spans += [(turn.start + start, turn.start + end) for start, end in found]
    return sorted(spans)


def _loud(speech: Speech) -> list[tuple[float, float]]:
    """Spans of time in which a sound is loud."""
    step = int(_STEP_S * SAMPLE_RATE)
    blocks = speech.samples[: len(speech.samples) // step * step].reshape(-1, step)
    levels = np.sqrt((blocks**2).mean(1)) if len(blocks) else np.zeros(1)
    return list(_spans(levels > _LOUD * max(levels.max(), 1e-6)))


def _looked_at(person: int, speaking: np.ndarray) -> list[tuple[float, float, int]]:
    """Whom a person looks at, and from when until when, s. speaking: bool [people, steps]."""
    looked_at = np.full(speaking.shape[1], -1)
    target, quiet, linger = -1, 0, round(_LINGER_S / _STEP_S)
    for t, speaks in enumerate(speaking.T):
        others = [int(k) for k in np.flatnonzero(speaks) if k != person]
        begun = [k for k in others if t == 0 or not speaking[k, t - 1]]
        if begun:
            target = begun[-1]
        elif others and target not in others:
            target = others[0]
        quiet = 0 if others else quiet + 1
        if quiet > linger:
            target = -1
        looked_at[t] = -1 if speaks[person] else target
    borders = [0, *(np.flatnonzero(np.diff(looked_at)) + 1), len(looked_at)]
    spans = [(a * _STEP_S, b * _STEP_S, int(looked_at[a])) for a, b in pairwise(borders) if a < b and looked_at[a] >= 0]
    return [
        (start + _NOTICE_S * (start > 0), end, other)
        for start, end, other in spans
        if end - start - _NOTICE_S >= _SHORTEST_LOOK_S
    ]


def _nods(
    start: float, end: float, other: int, turns: Sequence[SpokenTurn], last: float, rng: np.random.Generator
) -> list[float]:
    """When a listener nods while looking at another, s: at ends of phrases."""
    words = _spoken(other, turns)
    pauses = [a_end for (_, a_end), (b_start, _) in pairwise(words) if b_start - a_end >= _PHRASE_S]
    nods = []
    for time in pauses:
        moment = time + 0.1
        is_due = start + _FIRST_NOD_S <= moment <= end - _NOD_SPAN_S and moment - last >= _BETWEEN_NODS_S
        if is_due and rng.random() < _NOD_SHARE:
            nods.append(float(moment))
            last = moment
    return nods


def _spans(flags: np.ndarray) -> list[tuple[float, float]]:
    """Start and end, s, of the runs of True on the time line."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(float(a * _STEP_S), float(b * _STEP_S)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
