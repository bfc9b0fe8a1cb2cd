"""Captions: words with their times -> lines of text that a reader can follow, as SubRip or WebVTT.

The rules are those that broadcasters and streaming services share: two lines of 42 characters, for 1 to 7 s, read at
17 characters a second, parted where the sentence parts, and no word alone in a caption or a line.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from stereotalker.audio.text_to_speech import NO_SPACES
from stereotalker.audio.written_words import written_words
from stereotalker.media.burnt_captions import Caption
from stereotalker.records import Timed

ENDINGS = ("srt", "vtt")
MAX_LINE, MAX_LINES = 42, 2  # columns of a line (wide characters, such as Han, take two); lines of a caption
MIN_S, MAX_S = 1.0, 7.0  # how long a caption is shown
MAX_RATE = 17.0  # columns a second
GAP_S = 0.08  # between two captions: two frames at 25 fps, so that the eye notices the change
_LEAD_S = 0.25  # how long a caption may be there before its first word
_MAX_WAIT_S = 2.0  # how long a caption stays after its last word, where nobody speaks
_SENTENCE_ENDS, _PAUSES = ".!?…。！？؟।", ",;:—–、，；：،؛"
_CLOSING = "\"'”’»)]」』）】》"
# What a break between two captions costs, behind a pause and elsewhere; behind a sentence it costs nothing. A caption
# costs something itself, because few long ones are easier to read than many short ones.
_PAUSE_COST, _BREAK_COST, _CAPTION_COST = 1.0, 4.0, 1.5
# Of one word alone, of a second less than MIN_S, and of a column too many to be read.
_ALONE_COST, _BRIEF_COST, _FAST_COST = 30.0, 200.0, 3.0
# A silence in which the speaker stops; what it costs to have one within a caption.
_LONG_GAP_S, _LONG_GAP_COST = 0.6, 3.0
_LOOK_BACK = 40  # words of a caption, at most


def make_captions(words: Sequence[Timed], text: str, seconds: float, max_line: int = MAX_LINE) -> tuple[Caption, ...]:
    """The captions of a clip.

    words: what is said, at rising times; text: the same as it is written, with punctuation; seconds: of the clip;
    max_line: columns of a line, fewer where they are drawn into small pictures.
    """
    tokens = written_words(words, text)
    if not tokens:
        return ()
    spans = _best_spans(tokens, seconds, max_line)
    starts = [_shown_from(tokens, first) for first, _ in spans]
    limits = [*(start - GAP_S for start in starts[1:]), seconds]
    result = []
    for start, (first, last), limit in zip(starts, spans, limits, strict=True):
        words, lines = tokens[first:last], _lines(tokens[first:last], max_line)
        result.append(Caption(start, _shown_until(words, start, limit), lines, tuple(map(_join, lines))))
    return tuple(result)


def columns(text: str) -> int:
    """How much room a text takes in a line. Wide characters take two columns, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _join(words: Sequence[Timed], marked: Sequence[str] | None = None) -> str:
    """The text of words, or of the same words with marks. No space stands beside letters whose script has none."""
    text = ""
    for k, word in enumerate(words):
        has_space = k and not (NO_SPACES.search(words[k - 1].text) or NO_SPACES.match(word.text))
        text += " " * bool(has_space) + (marked[k] if marked else word.text)
    return text


def _best_spans(tokens: Sequence[Timed], seconds: float, max_line: int) -> list[tuple[int, int]]:
    """The first word of each caption and the one behind its last, so that the captions together cost least."""
    costs, previous = [0.0], [0]
    for last in range(1, len(tokens) + 1):
        following = tokens[last] if last < len(tokens) else None
        limit = _shown_from(tokens, last) - GAP_S if following else seconds
        options = [
            (costs[first] + _caption_cost(tokens[first:last], _shown_from(tokens, first), limit, following), first)
            for first in range(max(0, last - _LOOK_BACK), last)
            if first == last - 1 or _fits(tokens[first:last], max_line)
        ]
        cost, first = min(options)
        costs.append(cost)
        previous.append(first)
    spans: list[tuple[int, int]] = []
    last = len(tokens)
    while last:
        spans.insert(0, (previous[last], last))
        last = previous[last]
    return spans


def _fits(words: Sequence[Timed], max_line: int) -> bool:
    """Whether words can stand in one caption."""
    return words[-1].end - words[0].start <= MAX_S - _LEAD_S and all(
        columns(_join(line)) <= max_line for line in _lines(words, max_line)
    )


def _caption_cost(words: Sequence[Timed], start: float, limit: float, following: Timed | None) -> float:
    """How bad a caption is. start, limit: when it begins, and when the next one comes, s; following: its first word."""
    shown = _shown_until(words, start, limit) - start
    cost = _CAPTION_COST + (_break_cost(words[-1], following) if following else 0.0)
    cost += _LONG_GAP_COST * sum(b.start - a.end > _LONG_GAP_S for a, b in pairwise(words))
    cost += _ALONE_COST * (len(words) == 1 and not _is_sentence_end(words[0].text))
    cost += _BRIEF_COST * max(0.0, MIN_S - shown)
    return cost + _FAST_COST * max(0.0, columns(_join(words)) - MAX_RATE * shown)


def _break_cost(word: Timed, following: Timed) -> float:
    """How bad it is to break between two words: not at all where a sentence ends or the speaker stops."""
    if _is_sentence_end(word.text) or following.start - word.end > _LONG_GAP_S:
        return 0.0
    return _PAUSE_COST if word.text.rstrip(_CLOSING).endswith(tuple(_PAUSES)) else _BREAK_COST


def _is_sentence_end(text: str) -> bool:
    """Whether a sentence ends with a word. A number with a full stop is a date or an ordinal."""
    is_number = text.endswith(".") and text[-2:-1].isdigit()
    return text.rstrip(_CLOSING).endswith(tuple(_SENTENCE_ENDS)) and not is_number


def _shown_from(tokens: Sequence[Timed], first: int) -> float:
    """When a caption begins: with its first word, or a little before if nobody speaks then."""
    silent_from = tokens[first - 1].end + GAP_S if first else 0.0
    return min(tokens[first].start, max(silent_from, tokens[first].start - _LEAD_S))


def _shown_until(words: Sequence[Timed], start: float, limit: float) -> float:
    """When a caption ends: once it can be read, but not after `limit` s, and never long after its last word."""
    needed = start + max(MIN_S, columns(_join(words)) / MAX_RATE)
    return min(max(words[-1].end, needed), limit, start + MAX_S, words[-1].end + _MAX_WAIT_S)


def _lines(words: Sequence[Timed], max_line: int) -> tuple[tuple[Timed, ...], ...]:
    """The words in one line if they fit, else in two: parted where they pause, and of equal length."""
    words = tuple(words)
    if len(words) == 1 or columns(_join(words)) <= max_line:
        return (words,)

    def cost(k: int) -> float:
        first, second = columns(_join(words[:k])), columns(_join(words[k:]))
        too_long = max(0, first - max_line) + max(0, second - max_line)
        alone = (k == 1) + (k == len(words) - 1)
        return 100 * too_long + 20 * alone + 3 * _break_cost(words[k - 1], words[k]) + abs(first - second) / 2

    k = min(range(1, len(words)), key=cost)
    return words[:k], words[k:]


def faults(captions: Sequence[Caption], seconds: float) -> list[str]:
    """What is wrong with captions by the rules of this module; a line each. seconds: of the clip."""
    found = []
    for k, caption in enumerate(captions, 1):
        shown = caption.end - caption.start
        rate = columns(caption.text.replace("\n", " ")) / max(shown, 1e-6)
        words = [word for line in caption.lines for word in line]
        rules = {
            f"{len(caption.lines)} lines": len(caption.lines) > MAX_LINES,
            f"a line of {max(map(columns, caption.text.splitlines()))} columns": any(
                columns(line) > MAX_LINE for line in caption.text.splitlines()
            ),
            f"{shown:.2f} s": not MIN_S - 1e-6 <= shown <= MAX_S + 1e-6,
            f"{rate:.1f} columns a second": rate > MAX_RATE + 1e-6,
            "a word alone in a line": len(caption.lines) > 1 and any(len(line) == 1 for line in caption.lines),
            "a word alone": len(words) == 1 and not _is_sentence_end(words[0].text),
            "it ends behind the clip": caption.end > seconds + 1e-6,
        }
        found += [f"caption {k}: {text}" for text, is_fault in rules.items() if is_fault]
    found += [f"captions {k} and {k + 1} overlap" for k, (a, b) in enumerate(pairwise(captions), 1) if b.start < a.end]
    return found


def to_files(captions: Sequence[Caption]) -> dict[str, str]:
    """The texts of the files, by their ending; none without captions."""
    return dict(zip(ENDINGS, (to_srt(captions), to_vtt(captions)), strict=True)) if captions else {}


def to_srt(captions: Sequence[Caption]) -> str:
    """SubRip."""
    blocks = [f"{k}\n{_time(c.start, ',')} --> {_time(c.end, ',')}\n{c.text}\n" for k, c in enumerate(captions, 1)]
    return "\n".join(blocks)


def to_vtt(captions: Sequence[Caption]) -> str:
    """WebVTT with the time of every word, so that players can highlight it, and the speaker's name in a scene."""
    blocks = ["WEBVTT\n"]
    for caption in captions:
        lines = [_join(line, [_vtt_word(word, caption) for word in line]) for line in caption.lines]
        voice = f"<v {html.escape(caption.speaker, quote=False)}>" if caption.speaker else ""
        blocks.append(f"{_time(caption.start, '.')} --> {_time(caption.end, '.')}\n{voice}" + "\n".join(lines) + "\n")
    return "\n".join(blocks)


def _vtt_word(word: Timed, caption: Caption) -> str:
    """A word with the mark of its time, which must lie within the caption."""
    text = html.escape(word.text, quote=False)
    moment = _time(word.start, ".")
    is_within = _time(caption.start, ".") < moment < _time(caption.end, ".")
    return f"<{moment}>{text}" if is_within else text


def _time(seconds: float, separator: str) -> str:
    """HH:MM:SS.mmm."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{separator}{rest % 1000:03}"
