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
    forearm_vertices,
    hand_vertices,
    initial_source_labels,
)
from stereotalker.control.sleeves import detect_sleeve_end
from stereotalker.control.texture import SIZE, texel_corners
from stereotalker.smplx_layout import JOINT, REGION, SIDES

SKIN, CLOTH = np.array((205, 150, 125)), np.array((40, 60, 150))
SLEEVE_END = 0.4  # distance in m from the middle of the body at rest


def with_sleeves(avatar, arm_distance, end):
    """The avatar in one color of skin and one of cloth, with sleeves that end `end` m from the middle of the body."""
    skin = np.isin(avatar.regions, [REGION[name] for name in ("face", "mouth", "hair", "hands")]) | (
        (avatar.regions == REGION["arms"]) & (arm_distance > end)
    )
    return replace(avatar, portrait=np.where(skin[..., None], SKIN, CLOTH).astype(np.uint8))


def detect_sleeves(avatar, body, fragments):
    return detect_sleeve_end(avatar, body, fragments, initial_source_labels(avatar.regions), anatomically_allowed(body))


def test_sleeves_end_where_skin_begins(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    sleeves = detect_sleeves(with_sleeves(avatar, arm_distance, SLEEVE_END), body, fragments)
    ends = np.abs(body.template[sleeves.beyond > 0, 0]).min()
    assert abs(ends - SLEEVE_END) < 0.03
    below = (sleeves.pixels == BARE) & (arm_distance > 0)
    assert below.any() and (arm_distance[below] > SLEEVE_END - 0.03).all()
    far, reach = (sleeves.beyond > 0.05) & ~hand_vertices(body), np.abs(body.template[:, 0])
    assert not sleeves.allowed_sources[far, REGION["arms"]].any() and sleeves.allowed_sources[far, BARE].all()
    upper = body.weights[:, [JOINT[f"{side}_shoulder"] for side in SIDES]].sum(1) > 0.5
    assert not sleeves.allowed_sources[upper & (reach < SLEEVE_END - 0.05), BARE].any()


def test_pale_stripes_on_short_sleeves_are_cloth(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    plain = with_sleeves(avatar, arm_distance, SLEEVE_END)
    stripes = (
        (avatar.regions == REGION["arms"])
        & (arm_distance > 0)
        & (arm_distance < SLEEVE_END - 0.05)
        & ((arm_distance * 60).astype(int) % 3 == 0)
    )
    sleeves = detect_sleeves(
        replace(plain, portrait=np.where(stripes[..., None], SKIN, plain.portrait).astype(np.uint8)), body, fragments
    )
    assert stripes.sum() > 20 and abs(np.abs(body.template[sleeves.beyond > 0, 0]).min() - SLEEVE_END) < 0.03
    assert not (sleeves.pixels[stripes] == BARE).any()


def test_long_sleeves_sample_no_hands_and_hands_no_sleeves(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    sleeves = detect_sleeves(with_sleeves(avatar, arm_distance, 9.0), body, fragments)
    assert (sleeves.beyond <= 0).all() and not (sleeves.pixels == BARE).any()
    forearm = (np.abs(body.template[:, 0]) > 0.45) & (np.abs(body.template[:, 0]) < 0.6) & ~hand_vertices(body)
    assert not sleeves.allowed_sources[forearm, REGION["hands"]].any()
    assert not sleeves.allowed_sources[np.abs(body.template[:, 0]) > 0.8, REGION["arms"]].any()  # fingers


def test_a_rim_of_skin_on_long_sleeves_is_shown_and_not_spread(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    long = with_sleeves(avatar, arm_distance, 9.0)
    arms = (initial_source_labels(avatar.regions) == REGION["arms"]) & (arm_distance > 0)
    rim = arms & (arm_distance > np.quantile(arm_distance[arms], 0.98))
    rimmed = replace(long, portrait=np.where(rim[..., None], SKIN, long.portrait).astype(np.uint8))
    sleeves = detect_sleeves(rimmed, body, fragments)
    assert (sleeves.beyond <= 0).all() and (sleeves.pixels[rim] == BARE).mean() > 0.5
    assert sleeves.allowed_sources[forearm_vertices(body), BARE].all()
    ref = reference(rimmed, body)
    columns, rows = (
        texel_corners(body)[body.texture_faces[forearm_vertices(body)[body.faces].all(1)]].mean(1).astype(int).T
    )
    inpainted = ref.texture.seen[rows, columns] == 0
    colors = ref.texture.colour[rows, columns][inpainted].astype(float)
    assert (
        inpainted.sum() > 20
        and (np.linalg.norm(colors - CLOTH, axis=1) < np.linalg.norm(colors - SKIN, axis=1)).mean() > 0.95
    )


def test_cuffs_between_fingers_are_sleeves_and_shadows_on_fingers_are_not(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    long = with_sleeves(avatar, arm_distance, 9.0)
    rows, columns = np.nonzero(avatar.regions == REGION["hands"])
    middle = int(np.median(columns[rows > np.median(rows)]))
    column_distance = np.where(
        avatar.regions == REGION["hands"], np.abs(np.arange(avatar.regions.shape[1]) - middle), 99
    )
    for color, region in ((CLOTH, "arms"), (0.7 * SKIN, "hands")):
        sleeves = detect_sleeves(
            replace(long, portrait=np.where((column_distance < 9)[..., None], color, long.portrait).astype(np.uint8)),
            body,
            fragments,
        )
        assert (sleeves.regions[column_distance < 4] == REGION[region]).mean() > 0.9


def test_no_vertex_inside_a_hand_is_labeled_as_arm(portrait_body, body):
    avatar, _, arm_distance = portrait_body
    for end in (SLEEVE_END, 9.0):
        ref = reference(with_sleeves(avatar, arm_distance, end), body)
        whole = body.hand_weight() > 0.9
        assert not (ref.region[: len(whole)][whole] == REGION["arms"]).any()


def test_fingers_do_not_sample_from_the_hand_fringe(portrait_body, body):
    avatar, fragments, _ = portrait_body
    beside = initial_source_labels(avatar.regions) == FRINGE
    assert beside.sum() > 20 and not np.isin(avatar.regions[beside], [REGION["hands"], REGION["background"]]).any()
    green = replace(avatar, portrait=np.where(beside[..., None], (0, 255, 0), avatar.portrait).astype(np.uint8))
    sleeves, reach = detect_sleeves(green, body, fragments), np.abs(body.template[:, 0])
    fingers = hand_vertices(body) & (reach > reach[hand_vertices(body)].min() + 0.04)
    assert (
        not sleeves.allowed_sources[fingers, FRINGE].any()
        and sleeves.allowed_sources[forearm_vertices(body), FRINGE].any()
    )
    columns, rows = texel_corners(body)[body.texture_faces[fingers[body.faces].all(1)]].mean(1).astype(int).T
    colors = reference(green, body).texture.colour[rows, columns]
    assert (colors[:, 1] < colors[:, [0, 2]].max(1) + 60).mean() > 0.99


def test_hands_labeled_as_arms_may_still_be_sampled(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    without_hands = replace(
        avatar, regions=np.where(avatar.regions == REGION["hands"], REGION["arms"], avatar.regions).astype(np.uint8)
    )
    assert detect_sleeves(without_hands, body, fragments).allowed_sources[hand_vertices(body), REGION["arms"]].all()


@pytest.mark.parametrize("kept", ["background", "face", "torso"])
def test_portraits_without_arms_have_no_sleeves(portrait_body, body, kept):
    avatar, fragments, _ = portrait_body
    regions = np.where(
        np.isin(avatar.regions, [REGION["background"], REGION[kept]]), avatar.regions, REGION["background"]
    ).astype(np.uint8)
    sleeves = detect_sleeves(replace(avatar, regions=regions), body, fragments)
    assert (sleeves.beyond == -1).all() and (sleeves.pixels == initial_source_labels(regions)).all()


def test_cloth_like_skin_and_striped_cloth_give_no_sleeve_end(portrait_body, body):
    avatar, fragments, arm_distance = portrait_body
    same = detect_sleeves(replace(avatar, portrait=np.full_like(avatar.portrait, 150)), body, fragments)
    assert (same.pixels == initial_source_labels(avatar.regions)).all() and (same.beyond <= 0).all()
    plain = with_sleeves(avatar, arm_distance, 9.0)
    stripes = (np.arange(arm_distance.shape[0])[:, None, None] // 6 % 2 == 0) & (avatar.regions == REGION["arms"])[
        ..., None
    ]
    striped = detect_sleeves(
        replace(plain, portrait=np.where(stripes, SKIN, plain.portrait).astype(np.uint8)), body, fragments
    )
    assert not (striped.pixels == BARE).any()


def test_inpainted_texels_are_skin_beyond_the_sleeve_and_cloth_before_it(portrait_body, body):
    avatar, _, arm_distance = portrait_body
    ref = reference(with_sleeves(avatar, arm_distance, SLEEVE_END), body)
    corners, (columns, rows) = (
        body.faces.ravel(),
        texel_corners(body)[body.texture_faces.ravel()].astype(int).T.clip(0, SIZE - 1),
    )
    inpainted, distance = ref.texture.seen[rows, columns] == 0, np.abs(body.template[corners, 0])
    arm = (
        inpainted
        & ~hand_vertices(body)[corners]
        & (body.weights[corners][:, [JOINT[f"{side}_elbow"] for side in SIDES]].sum(1) > 0.5)
    )
    skin_share = (
        (ref.texture.colour[rows, columns] - CLOTH.astype(float)) @ (SKIN - CLOTH) / ((SKIN - CLOTH) @ (SKIN - CLOTH))
    )
    beyond, before = (
        arm & (distance > SLEEVE_END + 0.04),
        inpainted & (ref.region[corners] == REGION["arms"]) & (distance < SLEEVE_END - 0.04) & (distance > 0.25),
    )
    assert beyond.sum() > 100 and before.sum() > 100
    assert np.mean(skin_share[beyond] > 0.6) > 0.97 and np.mean(skin_share[before] < 0.4) > 0.97


def test_regions_that_the_portrait_hides_are_labeled_by_anatomy(portrait_body, body):
    avatar, _, arm_distance = portrait_body
    face = avatar.regions == REGION["face"]
    brow = np.quantile(np.nonzero(face)[0], 0.3)
    hairy = np.where(face & (np.arange(len(face))[:, None] < brow), REGION["hair"], avatar.regions).astype(np.uint8)
    labels_bald, labels_haired = (
        reference(replace(avatar, regions=regions), body).region[: len(body.template)][back_of_head_vertices(body)]
        for regions in (avatar.regions, hairy)
    )
    assert (labels_haired == REGION["hair"]).mean() > 0.9 and not (labels_bald == REGION["hair"]).any()
    armless = np.where(avatar.regions == REGION["arms"], REGION["torso"], avatar.regions).astype(np.uint8)
    region = reference(replace(avatar, regions=armless), body).region[: len(body.template)][forearm_vertices(body)]
    assert (
        np.isin(region, [REGION["arms"], REGION["torso"], REGION["hands"]]).all()
        and (region == REGION["arms"]).mean() > 0.2
    )
