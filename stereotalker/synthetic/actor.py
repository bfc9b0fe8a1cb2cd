"""Builds an actor: a synthetic person, dressed and lit, with the portrait that the pipeline would be given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stereotalker.acting.face import resting_expression
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.body.model import Body
from stereotalker.geometry import camera as cameras
from stereotalker.records import Avatar, Motion, Speech
from stereotalker.smplx_layout import JOINT
from stereotalker.synthetic.anatomy import anatomy
from stereotalker.synthetic.backgrounds import draw_background
from stereotalker.synthetic.contact import RETREAT_M, TOUCH_M, deepest_contact, girth_of
from stereotalker.synthetic.figure import DressedPerson, build_person
from stereotalker.synthetic.population import draw_person
from stereotalker.synthetic.shading import draw_light, render
from stereotalker.synthetic.shading_kernels import Light

HEADROOM_M = 0.07  # between the crown and the upper edge of a portrait
_MAX_TRIES = 4  # at a pose whose hands are clear of the body


@dataclass(frozen=True)
class Actor:
    """An identity ready to perform."""

    dressed_person: DressedPerson
    avatar: Avatar  # exact, in front view
    light: Light
    background_kind: str  # kind of the background, or the name of the user's picture
    girth: float  # m, by which the dressed front reaches farther forward than the mean body's; hands keep clear of it


def build_actor(
    identity: int,
    body: Body,
    size: int,
    supersample: int,
    name: str = "",
    pictures: tuple[Path, ...] = (),
    rest: str = "",
) -> Actor:
    """Draw a person, dress them and render their portrait. Deterministic in `identity`.

    size is the edge of the square portrait in px; supersample is the number of samples per pixel and axis; pictures are
    backgrounds of the user's own; rest is how the hands rest, a key of gestures.REST_POSES, or empty for the rest of
    the person's acting style.
    """
    dressed_person = build_person(draw_person(identity, len(STYLES)), body)
    light = draw_light(identity)
    background, kind = draw_background(identity, (size, size), pictures)
    girth = girth_of(anatomy(body), body.rest(dressed_person.betas) + dressed_person.shell.astype(np.float32))
    still = _resting_frame(dressed_person, body, girth, rest)
    name = name or f"synthetic-{identity:06d}"
    avatar = _render_portrait(dressed_person, body, still, light, background, size, supersample, name)
    return Actor(dressed_person, avatar, light, kind, girth)


def _resting_frame(dressed_person: DressedPerson, body: Body, girth: float, rest: str) -> Motion:
    """One frame of the person at rest, looking into the camera, with hands clear of the body."""
    silence, person = Speech(np.zeros(1600, np.float32), -np.inf), dressed_person.person
    style = STYLES[person.personality]
    for _ in range(_MAX_TRIES):
        still = act(silence, replace(style, rest=rest or style.rest), person.seed, 10.0, girth=girth).frames(0, 1)
        poses = still.poses.copy()
        poses[:, [JOINT[n] for n in ("head", "neck", "left_eye", "right_eye")]] = 0
        still = replace(
            still,
            poses=poses,
            expression=resting_expression(style.smile)[None].astype(np.float32),
            trans=np.zeros_like(still.trans),
        )
        deepest = deepest_contact(body, still, dressed_person.betas, dressed_person.shell)
        if deepest < TOUCH_M:
            break
        girth += deepest + RETREAT_M
    return still


def _render_portrait(
    dressed_person: DressedPerson,
    body: Body,
    still: Motion,
    light: Light,
    background: np.ndarray,
    size: int,
    supersample: int,
    name: str,
) -> Avatar:
    """The exact avatar with its square portrait, seen from the front. background u8 [size, size, 3]."""
    person = dressed_person.person
    crown = float((body.rest(dressed_person.betas) + dressed_person.shell)[:, 1].max())
    extent = cameras.DISTANCE_M / cameras.FOCAL_IN_HEIGHTS
    target = np.array([0, crown + HEADROOM_M - extent / 2, 0], np.float32)
    front = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, cameras.DISTANCE_M), target, (size, size))
    K, E = front.intrinsics[0], front.extrinsics[0]
    posed = body.posed(still, dressed_person.betas, dressed_person.face)
    picture = render(dressed_person.figure, posed.vertices[0], posed.turn[0], K, E, light, background, supersample)
    return Avatar(
        name=name,
        portrait=picture.image,
        background=background,
        regions=picture.regions,
        betas=dressed_person.betas,
        surface=dressed_person.shell,
        poses=still.poses[0],
        expression=still.expression[0],
        intrinsics=K,
        extrinsics=E,
        target=target,
        style=person.personality,
        origin="synthetic",
        arms=True,
    )
