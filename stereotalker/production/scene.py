"""A scene: several people in one picture. Who they are, where they stand, and what each of them says in a dialogue."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from stereotalker.media.photos import is_picture
from stereotalker.production.performance import Performance

MAX_PEOPLE = 8
_PLACES = {"left": 0.25, "center": 0.5, "right": 0.75}
# Room that somebody needs from shoulder to shoulder, in heights of the picture in which the portrait is as high as it.
SHOULDERS = 0.62
# Width of the picture of one person, in its heights: as far as hands reach aside.
_ASPECT = 1.6
MAX_SIDE_PX = 2160  # longest side of a frame
# How far away a group is seen from, m: who stands 1 m behind is smaller by a fifth.
_DISTANCE_M = 4.0
_MIN_DISTANCE = 0.02  # of two people in one row, in widths of the picture
_MIN_SIDE_PX = 32
# Keys of a row that belong to one person, or to the dialogue, and are not taken over.
_NOT_SHARED = ("avatar", "consent", "cues", "script")
_MAX_NAME = 60
_NOT_IN_NAMES = re.compile(r"[:：\[\]\n]")
# What would be a name and its colon, of whomever.
_NAME = re.compile(rf"\s*(?P<name>[^\s:：\[\]][^:：\[\]]{{0,{_MAX_NAME}}}?)\s*(?:：|:(?=\s|$))")
_MARKED_NAME = re.compile(r"\s*(\[[^\]]*\]\s*)+[:：]")  # behind a name
_COLON = re.compile(r"\s*[:：]\s*")
# Share of the picture's height that the smallest person of the first row has at least.
_MIN_SHARE = 0.15


def _place(value: Any) -> Any:
    """The share of the picture's width at which a named place is."""
    if isinstance(value, str) and value in _PLACES:
        return _PLACES[value]
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError("expected left, center, right, or a number from 0 (left) to 1 (right)")
    return value


def _name(value: Any) -> Any:
    """A name that can stand before the colon of a line."""
    if not isinstance(value, str):
        return value
    name = unicodedata.normalize("NFC", value).strip()
    if _NOT_IN_NAMES.search(name) or len(name) > _MAX_NAME:
        raise ValueError(f"expected at most {_MAX_NAME} characters without colons and square brackets")
    return name


class Person(Performance):
    """Somebody in a scene: the keys of a row that are about one person, and a place."""

    name: Annotated[str, BeforeValidator(_name)] = Field(
        "", description="who speaks a line of a dialogue; empty: the avatar's, or the portrait's file's"
    )
    at: Annotated[float | None, BeforeValidator(_place)] = Field(
        None,
        ge=0,
        le=1,
        description="left, center, right, or a number from 0 (left edge) to 1; null: all stand side by side, in order",
    )
    behind: float = Field(0.0, ge=0, le=3, description="m that the person stands farther back than the first row")
    start: float | None = Field(
        None,
        ge=0,
        le=86_400,
        description="s into the scene at which `audio` or `script` begins; null: audio at once, and a script when the "
        "one before it in the list has ended",
    )

    @property
    def label(self) -> str:
        """The name that a dialogue and notes call the person by."""
        stem = Path(self.avatar).stem if is_picture(self.avatar) else self.avatar
        return self.name or unicodedata.normalize("NFC", stem).strip()

    @property
    def has_words(self) -> bool:
        """Whether the person has a recording or a script of their own."""
        return self.audio is not None or self.script is not None


class Line(NamedTuple):
    """What somebody says in one go."""

    person: int  # index into the scene
    text: str
    number: int  # of the line of the dialogue in which it begins, from 1


class Box(NamedTuple):
    """Where the picture of a person lies in that of the scene, px; parts of it may lie outside."""

    left: int
    top: int
    width: int
    height: int


def people_list(value: Any) -> Any:
    """The people of a scene."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("expected a list of people such as [{avatar: ava}, {avatar: ben}]")
    return value


def with_inheritance(values: Any) -> Any:
    """The values of a row whose people have taken over what it says for all of them."""
    scene = values.get("scene") if isinstance(values, dict) else None
    if not isinstance(scene, list) or not scene:
        return values
    shared = {key: values[key] for key in Performance.model_fields if key in values and key not in _NOT_SHARED}

    def inherited(person: dict) -> dict:
        has_no_recording = "script" in person or ("audio" in person and person["audio"] is None)
        of_recording = ("audio", "part", "speaker", "transcript") if has_no_recording else ()
        return {key: value for key, value in shared.items() if key not in of_recording} | person

    people = [inherited(person) if isinstance(person, dict) else person for person in scene]
    return {key: value for key, value in values.items() if key not in shared} | {"scene": people}


def check_people(scene: Sequence[Person], script: str | None) -> None:
    """Raise ValueError for a scene that cannot be. script: the dialogue, None if each has words of their own."""
    if len(scene) > MAX_PEOPLE:
        raise ValueError(f"a scene of {len(scene)} people; expected at most {MAX_PEOPLE}")
    labels = [person.label for person in scene]
    plain = [label.casefold() for label in labels]
    if twice := next((label for label in labels if plain.count(label.casefold()) > 1), ""):
        raise ValueError(f"two people of the scene are called {twice!r}; give one of them another name")
    if missing := [k for k, person in enumerate(scene, 1) if not person.avatar]:
        raise ValueError(f"person {missing[0]} of the scene has no avatar")
    rows = sorted(zip((person.behind for person in scene), _centers(scene), labels, strict=True))
    for (a_row, a, a_name), (b_row, b, b_name) in pairwise(rows):
        if a_row == b_row and b - a < _MIN_DISTANCE:
            raise ValueError(f"{a_name} and {b_name} stand in one place; give one of them another `at`, or `behind`")
    speak = [person for person in scene if person.has_words]
    if script is not None and speak:
        raise ValueError(f"{speak[0].label} has words beside the dialogue; give either the dialogue or words to people")
    if not speak and not dialogue(script or "", scene):
        raise ValueError("nobody says anything in the scene; give a dialogue as script, or audio or script to people")
    if lone := next((person for person in scene if person.start is not None and not person.has_words), None):
        why = "has nothing to say" if script is None else "speaks in a dialogue when the one before has ended"
        raise ValueError(f"start of {lone.label}, who {why}; leave it out")


def dialogue(script: str, scene: Sequence[Person]) -> tuple[Line, ...]:
    """The lines of a dialogue such as `ava: Good morning.`, each with who speaks it.

    A line without a name goes on with what the one before says. Raises ValueError for a name that nobody has.
    """
    lines: list[Line] = []
    for number, text in enumerate(unicodedata.normalize("NFC", script).splitlines(), 1):
        if not text.strip():
            continue
        person, words = _spoken_by(text, scene, number)
        if person is not None:
            lines.append(Line(person, words, number))
        elif lines:
            lines[-1] = lines[-1]._replace(text=f"{lines[-1].text} {words}".strip())
        else:
            raise ValueError(f"line {number} of the dialogue: nobody is named who says it; {_example(scene)}")
    if empty := next((line for line in lines if not line.text), None):
        raise ValueError(f"line {empty.number} of the dialogue: {scene[empty.person].label} says nothing in it")
    return tuple(lines)


def _spoken_by(text: str, scene: Sequence[Person], number: int) -> tuple[int | None, str]:
    """Who is named at the beginning of a line, None for nobody, and what is said. Raises ValueError."""
    line = text.strip()
    # Of names that begin alike, the longest counts.
    for person in sorted(range(len(scene)), key=lambda k: -len(scene[k].label)):
        label = scene[person].label
        if line[: len(label)].casefold() != label.casefold():
            continue
        rest = line[len(label) :]
        if found := _COLON.match(rest):
            return person, rest[found.end() :]
        if _MARKED_NAME.match(rest):
            raise ValueError(f"line {number} of the dialogue: marks stand behind the colon, as in {label}: [nod] Yes.")
    if found := _NAME.match(line):
        raise ValueError(
            f"line {number} of the dialogue: nobody is called {found['name']!r}; {_example(scene)}; "
            "what only looks like a name has to stand behind one"
        )
    return None, line


def _example(scene: Sequence[Person]) -> str:
    return f"expected a line such as {scene[0].label}: ..., of {', '.join(person.label for person in scene)}"


def check_sizes(scene: Sequence[Person], size: tuple[int, int]) -> None:
    """Raise ValueError if people stand so near to each other that they would be tiny. size: (height, width) px."""
    share = _share(scene, size)
    if share < _MIN_SHARE:
        raise ValueError(
            f"people stand so near to each other that they would have {share:.0%} of the picture's height; "
            "move them apart, put some `behind`, or make the picture wider"
        )


def layout(scene: Sequence[Person], size: tuple[int, int]) -> tuple[Box, ...]:
    """Where each person's picture lies in a scene of (height, width) px.

    All stand on its lower edge. Where shoulders would touch, everybody is made smaller alike; who stands behind is
    smaller.
    """
    height, width = size
    share, boxes = _share(scene, size), []
    for person, center in zip(scene, _centers(scene), strict=True):
        own = share * _DISTANCE_M / (_DISTANCE_M + person.behind)
        middle = center * width
        # Farther out than the far edge of the scene nothing is seen.
        reach = min(_ASPECT * own * height, 2 * max(middle, width - middle), MAX_SIDE_PX)
        box_height, box_width = _even(own * height), _even(reach)
        boxes.append(Box(round(middle - box_width / 2), height - box_height, box_width, box_height))
    return tuple(boxes)


def _share(scene: Sequence[Person], size: tuple[int, int]) -> float:
    """Height of somebody in the first row, in heights of the scene: less than 1 where shoulders would touch."""
    height, width = size
    rows: dict[float, list[float]] = {}
    for person, center in zip(scene, _centers(scene), strict=True):
        rows.setdefault(person.behind, []).append(center)
    gaps = [b - a for row in rows.values() for a, b in pairwise(sorted(row))]
    return min(1.0, min(gaps, default=1.0) * width / height / SHOULDERS)


def drawing_order(scene: Sequence[Person]) -> list[int]:
    """The numbers of the people from the back to the front; of one row the later ones stand in front."""
    return sorted(range(len(scene)), key=lambda k: (-scene[k].behind, k))


def _centers(scene: Sequence[Person]) -> list[float]:
    """Where each person stands, in widths of the picture."""
    return [(k + 0.5) / len(scene) if person.at is None else person.at for k, person in enumerate(scene)]


def _even(length: float) -> int:
    return max(_MIN_SIDE_PX, 2 * round(length / 2))
