"""Which source labels a vertex may sample from: sleeves, bare skin, hands and the hand fringe."""

from dataclasses import replace

import numpy as np
import pytest

from stereotalker.control.reference_warp import reference
from stereotalker.control.region_sources import (
    BARE,
    FRINGE,
    anatomically_allowed,
    back_of_head_vertices,
    claimed,
    forearm_vertices,
    hand_vertices,
)
from stereotalker.control.sleeves import detect_sleeve_end
from stereotalker.control.texture import SIZE, texel_corners
from stereotalker.smplx_layout import JOINT, REGION, SIDES

SKIN, CLOTH, STRANDS = np.array((205, 150, 125)), np.array((40, 60, 150)), np.array((230, 20, 200))


END = 0.4  # m from the body's middle, at rest


def composite_visible_pixels(avatar, at, end):
    """The avatar in one colour of skin and one of cloth, with sleeves that end at `end` m."""
    skin = np.isin(avatar.regions, [REGION[name] for name in ("face", "mouth", "hair", "hands")]) | (
        (avatar.regions == REGION["arms"]) & (at > end)
    )
    return replace(avatar, portrait=np.where(skin[..., None], SKIN, CLOTH).astype(np.uint8))


def claims_of(avatar, body, picture):
    return detect_sleeve_end(avatar, body, picture, claimed(avatar.regions), anatomically_allowed(body))


def test_sleeves_end_where_skin_begins(drawn, body):
    avatar, picture, at = drawn
    claims = claims_of(composite_visible_pixels(avatar, at, END), body, picture)
    ends = np.abs(body.template[claims.beyond > 0, 0]).min()
    assert abs(ends - END) < 0.03
    below = (claims.pixels == BARE) & (at > 0)
    assert below.any() and (at[below] > END - 0.03).all()
    far, reach = (claims.beyond > 0.05) & ~hand_vertices(body), np.abs(body.template[:, 0])
    assert not claims.allowed_sources[far, REGION["arms"]].any() and claims.allowed_sources[far, BARE].all()
    upper = body.weights[:, [JOINT[f"{side}_shoulder"] for side in SIDES]].sum(1) > 0.5
    assert not claims.allowed_sources[upper & (reach < END - 0.05), BARE].any()


def test_pale_stripes_of_short_sleeves_are_cloth(drawn, body):
    avatar, picture, at = drawn
    plain = composite_visible_pixels(avatar, at, END)
    stripes = (avatar.regions == REGION["arms"]) & (at > 0) & (at < END - 0.05) & ((at * 60).astype(int) % 3 == 0)
    claims = claims_of(
        replace(plain, portrait=np.where(stripes[..., None], SKIN, plain.portrait).astype(np.uint8)), body, picture
    )
    assert stripes.sum() > 20 and abs(np.abs(body.template[claims.beyond > 0, 0]).min() - END) < 0.03
    assert not (claims.pixels[stripes] == BARE).any()


def test_long_sleeves_show_no_hands_and_hands_no_sleeves(drawn, body):
    avatar, picture, at = drawn
    claims = claims_of(composite_visible_pixels(avatar, at, 9.0), body, picture)
    assert (claims.beyond <= 0).all() and not (claims.pixels == BARE).any()
    forearm = (np.abs(body.template[:, 0]) > 0.45) & (np.abs(body.template[:, 0]) < 0.6) & ~hand_vertices(body)
    assert not claims.allowed_sources[forearm, REGION["hands"]].any()
    assert not claims.allowed_sources[np.abs(body.template[:, 0]) > 0.8, REGION["arms"]].any()  # fingers


def test_a_hands_rim_on_long_sleeves_is_shown_but_nothing_is_guessed_from_it(drawn, body):
    avatar, picture, at = drawn
    long = composite_visible_pixels(avatar, at, 9.0)
    arms = (claimed(avatar.regions) == REGION["arms"]) & (at > 0)
    rim = arms & (at > np.quantile(at[arms], 0.98))
    rimmed = replace(long, portrait=np.where(rim[..., None], SKIN, long.portrait).astype(np.uint8))
    claims = claims_of(rimmed, body, picture)
    assert (claims.beyond <= 0).all() and (claims.pixels[rim] == BARE).mean() > 0.5
    assert claims.allowed_sources[forearm_vertices(body), BARE].all()
    ref = reference(rimmed, body)
    columns, rows = (
        texel_corners(body)[body.texture_faces[forearm_vertices(body)[body.faces].all(1)]].mean(1).astype(int).T
    )
    guessed = ref.texture.seen[rows, columns] == 0
    colours = ref.texture.colour[rows, columns][guessed].astype(float)
    assert (
        guessed.sum() > 20
        and (np.linalg.norm(colours - CLOTH, axis=1) < np.linalg.norm(colours - SKIN, axis=1)).mean() > 0.95
    )


def test_cuffs_among_the_fingers_are_sleeves_and_shadows_on_fingers_are_not(drawn, body):
    avatar, picture, at = drawn
    long = composite_visible_pixels(avatar, at, 9.0)
    rows, columns = np.nonzero(avatar.regions == REGION["hands"])
    middle = int(np.median(columns[rows > np.median(rows)]))
    away = np.where(avatar.regions == REGION["hands"], np.abs(np.arange(avatar.regions.shape[1]) - middle), 99)
    for colour, called in ((CLOTH, "arms"), (0.7 * SKIN, "hands")):
        claims = claims_of(
            replace(long, portrait=np.where((away < 9)[..., None], colour, long.portrait).astype(np.uint8)),
            body,
            picture,
        )
        assert (claims.regions[away < 4] == REGION[called]).mean() > 0.9


def test_hands_are_no_arms_however_wide_their_fringe(drawn, body):
    avatar, _, at = drawn
    for end in (END, 9.0):
        ref = reference(composite_visible_pixels(avatar, at, end), body)
        whole = body.hand_weight() > 0.9
        assert not (ref.region[: len(whole)][whole] == REGION["arms"]).any()


def test_what_a_hand_lies_on_is_not_carried_along_on_its_fingers(drawn, body):
    avatar, picture, _ = drawn
    beside = claimed(avatar.regions) == FRINGE
    assert beside.sum() > 20 and not np.isin(avatar.regions[beside], [REGION["hands"], REGION["background"]]).any()
    green = replace(avatar, portrait=np.where(beside[..., None], (0, 255, 0), avatar.portrait).astype(np.uint8))
    claims, reach = claims_of(green, body, picture), np.abs(body.template[:, 0])
    fingers = hand_vertices(body) & (reach > reach[hand_vertices(body)].min() + 0.04)
    assert (
        not claims.allowed_sources[fingers, FRINGE].any()
        and claims.allowed_sources[forearm_vertices(body), FRINGE].any()
    )
    columns, rows = texel_corners(body)[body.texture_faces[fingers[body.faces].all(1)]].mean(1).astype(int).T
    colours = reference(green, body).texture.colour[rows, columns]
    assert (colours[:, 1] < colours[:, [0, 2]].max(1) + 60).mean() > 0.99


def test_a_hand_that_was_not_found_stays_in_the_picture(drawn, body):
    avatar, picture, at = drawn
    lost = replace(
        avatar, regions=np.where(avatar.regions == REGION["hands"], REGION["arms"], avatar.regions).astype(np.uint8)
    )
    assert claims_of(lost, body, picture).allowed_sources[hand_vertices(body), REGION["arms"]].all()


@pytest.mark.parametrize("kept", ["background", "face", "torso"])
def test_who_shows_no_arms_has_no_sleeves(drawn, body, kept):
    avatar, picture, _ = drawn
    alone = np.where(
        np.isin(avatar.regions, [REGION["background"], REGION[kept]]), avatar.regions, REGION["background"]
    ).astype(np.uint8)
    claims = claims_of(replace(avatar, regions=alone), body, picture)
    assert (claims.beyond == -1).all() and (claims.pixels == claimed(alone)).all()


def test_cloth_that_looks_like_skin_or_is_striped_says_nothing_of_sleeves(drawn, body):
    avatar, picture, at = drawn
    same = claims_of(replace(avatar, portrait=np.full_like(avatar.portrait, 150)), body, picture)
    assert (same.pixels == claimed(avatar.regions)).all() and (same.beyond <= 0).all()
    plain = composite_visible_pixels(avatar, at, 9.0)
    stripes = (np.arange(at.shape[0])[:, None, None] // 6 % 2 == 0) & (avatar.regions == REGION["arms"])[..., None]
    striped = claims_of(
        replace(plain, portrait=np.where(stripes, SKIN, plain.portrait).astype(np.uint8)), body, picture
    )
    assert not (striped.pixels == BARE).any()


def test_what_is_guessed_of_an_arm_is_skin_beyond_the_sleeve_and_cloth_before_it(drawn, body):
    avatar, _, at = drawn
    ref = reference(composite_visible_pixels(avatar, at, END), body)
    corners, (columns, rows) = (
        body.faces.ravel(),
        texel_corners(body)[body.texture_faces.ravel()].astype(int).T.clip(0, SIZE - 1),
    )
    guessed, reach = ref.texture.seen[rows, columns] == 0, np.abs(body.template[corners, 0])
    arm = (
        guessed
        & ~hand_vertices(body)[corners]
        & (body.weights[corners][:, [JOINT[f"{side}_elbow"] for side in SIDES]].sum(1) > 0.5)
    )
    share = (
        (ref.texture.colour[rows, columns] - CLOTH.astype(float)) @ (SKIN - CLOTH) / ((SKIN - CLOTH) @ (SKIN - CLOTH))
    )  # of skin
    beyond, before = (
        arm & (reach > END + 0.04),
        guessed & (ref.region[corners] == REGION["arms"]) & (reach < END - 0.04) & (reach > 0.25),
    )
    assert beyond.sum() > 100 and before.sum() > 100
    assert np.mean(share[beyond] > 0.6) > 0.97 and np.mean(share[before] < 0.4) > 0.97


def test_what_the_portrait_cannot_show_is_told_by_anatomy(drawn, body):
    avatar, _, at = drawn
    face = avatar.regions == REGION["face"]
    brow = np.quantile(np.nonzero(face)[0], 0.3)
    hairy = np.where(face & (np.arange(len(face))[:, None] < brow), REGION["hair"], avatar.regions).astype(np.uint8)
    bald, haired = (
        reference(replace(avatar, regions=regions), body).region[: len(body.template)][back_of_head_vertices(body)]
        for regions in (avatar.regions, hairy)
    )
    assert (haired == REGION["hair"]).mean() > 0.9 and not (bald == REGION["hair"]).any()
    armless = np.where(avatar.regions == REGION["arms"], REGION["torso"], avatar.regions).astype(np.uint8)
    region = reference(replace(avatar, regions=armless), body).region[: len(body.template)][forearm_vertices(body)]
    assert (
        np.isin(region, [REGION["arms"], REGION["torso"], REGION["hands"]]).all()
        and (region == REGION["arms"]).mean() > 0.2
    )
