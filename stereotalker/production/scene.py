"""A scene: several people in one picture. Who they are, where they stand, and what each of them says in a dialogue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from stereotalker.avatar.names import safe_id
from stereotalker.media.photos import is_picture
from stereotalker.production.performance import Performance

MAX_PEOPLE = 8
_PLACES = {"left": 0.25, "center": 0.5, "right": 0.75}
# Room that somebody needs from shoulder to shoulder, in heights of the picture in which the portrait is as high as it.
SHOULDERS = 0.62
# Narrowest picture of one person, in its heights: hands that reach aside must not be cut off within a scene.
_MIN_ASPECT = 4 / 3
# How far away a group is seen from, m: who stands 1 m behind is smaller by a fifth.
_DISTANCE_M = 4.0
_MIN_DISTANCE = 0.02  # of two people in one row, in widths of the picture
_MIN_SIDE_PX = 32
# Keys of a row that belong to one person, or to the dialogue, and are not taken over.
_NOT_SHARED = ("avatar", "consent", "cues", "script")
_LINE = re.compile(r"\s*(?P<name>[^\s:\[\]][^:\[\]]{0,60}?)\s*:(?:\s+|$)(?P<text>.*)")


def _place(value: Any) -> Any:
    """The share of the picture's width at which a named place is."""
    if isinstance(value, str) and value in _PLACES:
        return _PLACES[value]
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"expected left, center, right, or a number from 0 (left) to 1 (right), got {value!r}")
    return value


class Person(Performance):
    """Somebody in a scene: the keys of a row that are about one person, and a place."""

    name: str = Field("", description="who speaks a line of a dialogue; empty: the avatar's, or the portrait's file's")
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
        description="s into the scene at which `audio` or `script` begins; null: audio at once, and a script when the "
        "one before it in the list has ended",
    )

    @property
    def label(self) -> str:
        """The name that a dialogue, notes and files call the person by."""
        return self.name or safe_id(Path(self.avatar).stem if is_picture(self.avatar) else self.avatar)


class Line(NamedTuple):
    """What somebody says in one go."""

    person: int  # index into the scene
    text: str


class Box(NamedTuple):
    """Where the picture of a person lies in that of the scene, px; parts of it may lie outside."""

    left: int
    top: int
    width: int
    height: int


def with_inheritance(values: Any) -> Any:
    """The values of a row whose people have taken over what it says for all of them."""
    scene = values.get("scene") if isinstance(values, dict) else None
    if not isinstance(scene, list) or not scene:
        return values
    shared = {key: values[key] for key in Performance.model_fields if key in values and key not in _NOT_SHARED}

    def inherited(person: dict) -> dict:
        of_recording = ("audio", "part", "speaker", "transcript") if "script" in person else ()
        return {key: value for key, value in shared.items() if key not in of_recording} | person

    people = [inherited(person) if isinstance(person, dict) else person for person in scene]
    return {key: value for key, value in values.items() if key not in shared} | {"scene": people}


def check_people(scene: Sequence[Person], script: str | None) -> None:
    """Raise ValueError for a scene that cannot be. script: the dialogue, None if each has words of their own."""
    if len(scene) > MAX_PEOPLE:
        raise ValueError(f"a scene of {len(scene)} people; expected at most {MAX_PEOPLE}")
    labels = [person.label for person in scene]
    if twice := next((name for name in labels if labels.count(name) > 1), ""):
        raise ValueError(f"two people of the scene are called {twice!r}; give one of them another name")
    if missing := [k for k, person in enumerate(scene, 1) if not person.avatar]:
        raise ValueError(f"person {missing[0]} of the scene has no avatar")
    rows = sorted(zip((person.behind for person in scene), _centers(scene), labels, strict=True))
    for (a_row, a, a_name), (b_row, b, b_name) in pairwise(rows):
        if a_row == b_row and b - a < _MIN_DISTANCE:
            raise ValueError(f"{a_name} and {b_name} stand in one place; give one of them another `at`, or `behind`")
    speak = [person for person in scene if person.audio is not None or person.script is not None]
    if script is None and not speak:
        raise ValueError("nobody says anything in the scene; give a dialogue as script, or audio or script to people")
    if script is not None and speak:
        raise ValueError(f"{speak[0].label} has words beside the dialogue; give either the dialogue or words to people")
    if script is not None and (lone := next((person for person in scene if person.start is not None), None)):
        raise ValueError(f"start of {lone.label}: in a dialogue everybody speaks when the one before has ended")
    dialogue(script or "", scene)


def dialogue(script: str, scene: Sequence[Person]) -> tuple[Line, ...]:
    """The lines of a dialogue such as `ava: Good morning.`, each with who speaks it.

    A line without a name goes on with what the one before says. Raises ValueError for a name that nobody has.
    """
    numbers = {person.label.casefold(): k for k, person in enumerate(scene)}
    lines: list[Line] = []
    for number, text in enumerate(script.splitlines(), 1):
        if not text.strip():
            continue
        found = _LINE.fullmatch(text)
        if found and found["name"].casefold() in numbers:
            lines.append(Line(numbers[found["name"].casefold()], found["text"].strip()))
        elif found or not lines:
            who = f"nobody is called {found['name']!r}" if found else "nobody is named who says it"
            raise ValueError(
                f"line {number} of the dialogue: {who}; expected a line such as {scene[0].label}: ..., of "
                + ", ".join(person.label for person in scene)
            )
        else:
            lines[-1] = Line(lines[-1].person, f"{lines[-1].text} {text.strip()}")
    if empty := next((line for line in lines if not line.text), None):
        raise ValueError(f"{scene[empty.person].label} says nothing in one of the dialogue's lines")
    return tuple(lines)


def layout(scene: Sequence[Person], size: tuple[int, int]) -> tuple[Box, ...]:
    """Where each person's picture lies in a scene of (height, width) px.

    All stand on its lower edge. Where shoulders would touch, everybody is made smaller alike; who stands behind is
    smaller.
    """
    height, width = size
    centers = _centers(scene)
    rows: dict[float, list[float]] = {}
    for person, center in zip(scene, centers, strict=True):
        rows.setdefault(person.behind, []).append(center)
    gaps = [b - a for row in rows.values() for a, b in pairwise(sorted(row))]
    share = min(1.0, min(gaps, default=1.0) * width / height / SHOULDERS)
    boxes = []
    for person, center in zip(scene, centers, strict=True):
        own = share * _DISTANCE_M / (_DISTANCE_M + person.behind)
        box_height, box_width = (_even(own * side) for side in (height, max(width, _MIN_ASPECT * height)))
        boxes.append(Box(round(center * width - box_width / 2), height - box_height, box_width, box_height))
    return tuple(boxes)


def drawing_order(scene: Sequence[Person]) -> list[int]:
    """The numbers of the people from the back to the front; of one row the later ones stand in front."""
    return sorted(range(len(scene)), key=lambda k: (-scene[k].behind, k))


def _centers(scene: Sequence[Person]) -> list[float]:
    """Where each person stands, in widths of the picture."""
    return [(k + 0.5) / len(scene) if person.at is None else person.at for k, person in enumerate(scene)]


def _even(length: float) -> int:
    return max(_MIN_SIDE_PX, 2 * round(length / 2))
