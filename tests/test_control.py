"""What a portrait's pixels may show where: sleeves, skin and hands, hair beside the body, colours at its outline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import minimum_filter

from stereotalker.control import hair_plane, mipmaps
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.light import PortraitLight, Surface, read_light
from stereotalker.control.reference_warp import BESIDE, SEEN, control, reference
from stereotalker.control.region_sources import BARE, FRINGE, allowed, back_of_head, claimed, forearms_of, hands_of
from stereotalker.control.sleeves import detect_sleeve_end
from stereotalker.control.texture import SIZE, texel_corners
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, REGION, SIDES

SKIN, CLOTH, STRANDS = np.array((205, 150, 125)), np.array((40, 60, 150)), np.array((230, 20, 200))
END = 0.4  # m from the body's middle, at rest


@pytest.fixture(scope="module")
def drawn(made, body):
    """An avatar, its body as the portrait shows it, and how far along the arm every pixel lies, 0 off the arms."""
    avatar = made.avatar
    places = project(
        body.pose(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)[0],
        avatar.intrinsics,
        avatar.extrinsics,
    )
    picture = rasterize(places, body.faces, avatar.regions.shape)
    arm = np.abs(body.template[:, 0]) * ~hands_of(body) * (np.abs(body.template[:, 0]) > 0.2)
    return avatar, picture, picture.interpolate(body.faces, arm[:, None].astype(np.float32))[..., 0]


def composite_seen_pixels(avatar, at, end):
    """The avatar in one colour of skin and one of cloth, with sleeves that end at `end` m."""
    skin = np.isin(avatar.regions, [REGION[name] for name in ("face", "mouth", "hair", "hands")]) | (
        (avatar.regions == REGION["arms"]) & (at > end)
    )
    return replace(avatar, portrait=np.where(skin[..., None], SKIN, CLOTH).astype(np.uint8))


def claims_of(avatar, body, picture):
    return detect_sleeve_end(avatar, body, picture, claimed(avatar.regions), allowed(body))


def test_sleeves_end_where_skin_begins(drawn, body):
    avatar, picture, at = drawn
    claims = claims_of(composite_seen_pixels(avatar, at, END), body, picture)
    ends = np.abs(body.template[claims.beyond > 0, 0]).min()
    assert abs(ends - END) < 0.03
    below = (claims.pixels == BARE) & (at > 0)
    assert below.any() and (at[below] > END - 0.03).all()
    far, reach = (claims.beyond > 0.05) & ~hands_of(body), np.abs(body.template[:, 0])
    assert not claims.allowed_sources[far, REGION["arms"]].any() and claims.allowed_sources[far, BARE].all()
    upper = body.weights[:, [JOINT[f"{side}_shoulder"] for side in SIDES]].sum(1) > 0.5
    assert not claims.allowed_sources[upper & (reach < END - 0.05), BARE].any()


def test_pale_stripes_of_short_sleeves_are_cloth(drawn, body):
    avatar, picture, at = drawn
    plain = composite_seen_pixels(avatar, at, END)
    stripes = (avatar.regions == REGION["arms"]) & (at > 0) & (at < END - 0.05) & ((at * 60).astype(int) % 3 == 0)
    claims = claims_of(
        replace(plain, portrait=np.where(stripes[..., None], SKIN, plain.portrait).astype(np.uint8)), body, picture
    )
    assert stripes.sum() > 20 and abs(np.abs(body.template[claims.beyond > 0, 0]).min() - END) < 0.03
    assert not (claims.pixels[stripes] == BARE).any()


def test_long_sleeves_show_no_hands_and_hands_no_sleeves(drawn, body):
    avatar, picture, at = drawn
    claims = claims_of(composite_seen_pixels(avatar, at, 9.0), body, picture)
    assert (claims.beyond <= 0).all() and not (claims.pixels == BARE).any()
    forearm = (np.abs(body.template[:, 0]) > 0.45) & (np.abs(body.template[:, 0]) < 0.6) & ~hands_of(body)
    assert not claims.allowed_sources[forearm, REGION["hands"]].any()
    assert not claims.allowed_sources[np.abs(body.template[:, 0]) > 0.8, REGION["arms"]].any()  # fingers


def test_a_hands_rim_on_long_sleeves_is_shown_but_nothing_is_guessed_from_it(drawn, body):
    avatar, picture, at = drawn
    long = composite_seen_pixels(avatar, at, 9.0)
    arms = (claimed(avatar.regions) == REGION["arms"]) & (at > 0)
    rim = arms & (at > np.quantile(at[arms], 0.98))
    rimmed = replace(long, portrait=np.where(rim[..., None], SKIN, long.portrait).astype(np.uint8))
    claims = claims_of(rimmed, body, picture)
    assert (claims.beyond <= 0).all() and (claims.pixels[rim] == BARE).mean() > 0.5
    assert claims.allowed_sources[forearms_of(body), BARE].all()
    ref = reference(rimmed, body)
    columns, rows = texel_corners(body)[body.texture_faces[forearms_of(body)[body.faces].all(1)]].mean(1).astype(int).T
    guessed = ref.texture.seen[rows, columns] == 0
    colours = ref.texture.colour[rows, columns][guessed].astype(float)
    assert (
        guessed.sum() > 20
        and (np.linalg.norm(colours - CLOTH, axis=1) < np.linalg.norm(colours - SKIN, axis=1)).mean() > 0.95
    )


def test_cuffs_among_the_fingers_are_sleeves_and_shadows_on_fingers_are_not(drawn, body):
    avatar, picture, at = drawn
    long = composite_seen_pixels(avatar, at, 9.0)
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
        ref = reference(composite_seen_pixels(avatar, at, end), body)
        whole = body.hand_weight() > 0.9
        assert not (ref.region[: len(whole)][whole] == REGION["arms"]).any()


def test_what_a_hand_lies_on_is_not_carried_along_on_its_fingers(drawn, body):
    avatar, picture, _ = drawn
    beside = claimed(avatar.regions) == FRINGE
    assert beside.sum() > 20 and not np.isin(avatar.regions[beside], [REGION["hands"], REGION["background"]]).any()
    green = replace(avatar, portrait=np.where(beside[..., None], (0, 255, 0), avatar.portrait).astype(np.uint8))
    claims, reach = claims_of(green, body, picture), np.abs(body.template[:, 0])
    fingers = hands_of(body) & (reach > reach[hands_of(body)].min() + 0.04)
    assert not claims.allowed_sources[fingers, FRINGE].any() and claims.allowed_sources[forearms_of(body), FRINGE].any()
    columns, rows = texel_corners(body)[body.texture_faces[fingers[body.faces].all(1)]].mean(1).astype(int).T
    colours = reference(green, body).texture.colour[rows, columns]
    assert (colours[:, 1] < colours[:, [0, 2]].max(1) + 60).mean() > 0.99


def test_a_hand_that_was_not_found_stays_in_the_picture(drawn, body):
    avatar, picture, at = drawn
    lost = replace(
        avatar, regions=np.where(avatar.regions == REGION["hands"], REGION["arms"], avatar.regions).astype(np.uint8)
    )
    assert claims_of(lost, body, picture).allowed_sources[hands_of(body), REGION["arms"]].all()


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
    plain = composite_seen_pixels(avatar, at, 9.0)
    stripes = (np.arange(at.shape[0])[:, None, None] // 6 % 2 == 0) & (avatar.regions == REGION["arms"])[..., None]
    striped = claims_of(
        replace(plain, portrait=np.where(stripes, SKIN, plain.portrait).astype(np.uint8)), body, picture
    )
    assert not (striped.pixels == BARE).any()


def test_what_is_guessed_of_an_arm_is_skin_beyond_the_sleeve_and_cloth_before_it(drawn, body):
    avatar, _, at = drawn
    ref = reference(composite_seen_pixels(avatar, at, END), body)
    corners, (columns, rows) = (
        body.faces.ravel(),
        texel_corners(body)[body.texture_faces.ravel()].astype(int).T.clip(0, SIZE - 1),
    )
    guessed, reach = ref.texture.seen[rows, columns] == 0, np.abs(body.template[corners, 0])
    arm = (
        guessed
        & ~hands_of(body)[corners]
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
        reference(replace(avatar, regions=regions), body).region[: len(body.template)][back_of_head(body)]
        for regions in (avatar.regions, hairy)
    )
    assert (haired == REGION["hair"]).mean() > 0.9 and not (bald == REGION["hair"]).any()
    armless = np.where(avatar.regions == REGION["arms"], REGION["torso"], avatar.regions).astype(np.uint8)
    region = reference(replace(avatar, regions=armless), body).region[: len(body.template)][forearms_of(body)]
    assert (
        np.isin(region, [REGION["arms"], REGION["torso"], REGION["hands"]]).all()
        and (region == REGION["arms"]).mean() > 0.2
    )


# ---- hair beside the body, and colours beyond the outline ----------------------------------------------------------------


@pytest.fixture(scope="module")
def haired(drawn):
    """The avatar with strands of hair beside its neck, in a colour of their own, and where they are."""
    avatar, picture, _ = drawn
    rows, columns = np.nonzero(avatar.regions == REGION["face"])
    beside = np.zeros(avatar.regions.shape, bool)
    beside[int(np.median(rows)) : rows.max(), max(columns.min() - 6, 0) : columns.max() + 6] = True
    beside &= (avatar.regions == REGION["background"]) & (picture.face < 0)
    assert beside.sum() > 20
    regions, portrait = avatar.regions.copy(), avatar.portrait.copy()
    regions[beside], portrait[beside] = REGION["hair"], STRANDS
    return replace(avatar, regions=regions, portrait=portrait), beside


def maps_of(avatar, body, poses, azimuth=0.0):
    view = camera.around(avatar, CameraPath(azimuth=azimuth), 1, 25.0, avatar.regions.shape)
    return control(reference(avatar, body), body, Motion.still(poses, avatar.expression), view)


def test_hair_beside_the_body_is_drawn_where_the_portrait_shows_it(haired, body):
    avatar, beside = haired
    maps = maps_of(avatar, body, avatar.poses)
    drawn_there = (maps.visibility[0] == BESIDE) & beside
    assert drawn_there.sum() > 0.7 * beside.sum()
    assert (maps.labels[0][drawn_there] == REGION["hair"]).all()
    assert np.abs(maps.warp[0][drawn_there].astype(int) - STRANDS).mean() < 25  # rims mix with the plate


def test_hair_beside_the_body_turns_with_head_and_camera(haired, body):
    avatar, _ = haired
    nodding = avatar.poses.copy()
    nodding[JOINT["head"], 0] += 0.3
    still, nodded, turned = (
        maps_of(avatar, body, poses, azimuth).visibility[0] == BESIDE
        for poses, azimuth in ((avatar.poses, 0), (nodding, 0), (avatar.poses, 25))
    )
    for other in (nodded, turned):
        assert other.sum() > 10 and (other & still).sum() < 0.9 * still.sum()


def test_the_curtain_hangs_in_space(haired, body):
    """Of a point of the plane, carried by the head and seen by any camera, the portrait's pixel is found."""
    avatar, _ = haired
    hung, (at, turn) = (
        hair_plane.hang(avatar, body),
        (of[0] for of in hair_plane.heads(avatar, body, Motion.still(avatar.poses, avatar.expression))),
    )
    pixel = np.array([31.0, 22.0, 1.0])
    point = hung.place @ pixel
    assert np.allclose(project(point[None], avatar.intrinsics, avatar.extrinsics)[0, :2], pixel[:2], atol=1e-3)
    view = camera.around(avatar, CameraPath(azimuth=-30.0, elevation=10.0), 1, 25.0, avatar.regions.shape)
    spin, shift = (
        axis_angle_to_matrix(torch.tensor([[0.1, 0.5, -0.2]]))[0].double().numpy(),
        np.array([0.03, -0.02, 0.05]),
    )
    moved = spin @ (point - at) + at + shift
    seen = project(moved[None], view.intrinsics[0], view.extrinsics[0])[0]
    found = hung.from_pixels(at + shift, spin @ turn, view.intrinsics[0], view.extrinsics[0]) @ (*seen[:2], 1)
    assert np.allclose(found[:2] / found[2], pixel[:2], atol=1e-3) and 1 / found[2] == pytest.approx(seen[2], abs=1e-5)


@pytest.mark.parametrize("nearness", [0.0, -1.0])
def test_a_plane_that_is_not_before_the_camera_is_not_drawn(nearness):
    size = (6, 6)
    onto = np.array([[1, 0, 0], [0, 1, 0], [0, 0, nearness]], np.float64)
    portrait, hair = np.full((*size, 3), 200, np.uint8), np.full(size, REGION["hair"], np.uint8)
    maps = FrameMaps(
        warp=np.zeros((*size, 3), np.uint8),
        visibility=np.zeros(size, np.uint8),
        labels=np.zeros(size, np.uint8),
        normals=np.zeros((*size, 3), np.uint8),
    )
    depth, levels = np.full(size, np.inf, np.float32), mipmaps.MipPair(portrait, portrait, 0.0)
    hair_plane.draw(onto, depth, hair, levels, 1.0, BESIDE, SEEN, maps)
    assert not any(m.any() for m in maps)


def test_a_bald_portrait_has_no_curtain(drawn, body):
    avatar, _, _ = drawn
    bald = replace(
        avatar, regions=np.where(avatar.regions == REGION["hair"], REGION["face"], avatar.regions).astype(np.uint8)
    )
    assert reference(bald, body).curtain is None
    assert not (maps_of(bald, body, bald.poses, 20.0).visibility == BESIDE).any()


def test_colours_of_the_person_go_on_beyond_the_outline(drawn):
    avatar, _, _ = drawn
    person = avatar.regions != REGION["background"]
    green = replace(
        avatar, portrait=np.where(person[..., None], np.minimum(avatar.portrait, 200), (0, 255, 0)).astype(np.uint8)
    )
    fine = mipmaps.levels(green)[0]
    assert np.array_equal(fine[person], green.portrait[person]) and fine.max() <= 200
    nobody = replace(avatar, regions=np.zeros_like(avatar.regions))
    assert np.array_equal(mipmaps.levels(nobody)[0], avatar.portrait)


def lit_by(light, avatar, body, motion):
    """The luma of a grey body under a light, as the portrait's camera sees it, f32 [H, W]; and the body, and its picture."""
    surface = Surface.of(body.pose(motion, avatar.betas, avatar.surface)[0], body.faces)
    picture = rasterize(
        project(surface.vertices, avatar.intrinsics, avatar.extrinsics), body.faces, avatar.regions.shape
    )
    return 150 * picture.interpolate(body.faces, light.shading(surface)[:, None])[..., 0], surface, picture


def grey(level):
    return np.repeat(np.rint(level.clip(0, 255)).astype(np.uint8)[..., None], 3, 2)


def unlit(ref):
    return replace(
        ref, light=replace(ref.light, slope=np.zeros(3), shadow=0.0), shading=np.ones(len(ref.shading), np.float32)
    )


def unit(*axes):
    return np.array(axes) / np.linalg.norm(axes)


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(unit(*a) @ unit(*b), -1, 1)))


@pytest.mark.parametrize("shadow", [0.0, -0.6])
def test_the_light_is_read_off_the_portrait(drawn, body, shadow):
    avatar, _, _ = drawn
    key = unit(-0.5, 0.4, 0.75)
    light = PortraitLight(
        0.4 * unit(-0.1, 0.6, 0.8), key, shadow, avatar.target
    )  # other lamps pull the line off the key light
    level, surface, picture = lit_by(light, avatar, body, Motion.still(avatar.poses, avatar.expression))
    portrait = grey(np.where(avatar.regions == REGION["torso"], 0.5, 1.0) * level)
    found = read_light(portrait, avatar.regions, picture.face >= 0, surface, picture, avatar.target)
    assert np.abs(found.slope - light.slope).max() < 0.08
    if shadow:
        assert (
            degrees_between(found.key, key) < min(10, 0.5 * degrees_between(light.slope, key))
            and -0.8 < found.shadow < -0.3
        )
    else:
        assert found.shadow > -0.1


def test_who_turns_is_lit_from_where_the_lamp_stands(drawn, body):
    avatar, _, _ = drawn
    key = unit(-0.8, 0.2, 0.57)
    light = PortraitLight(0.5 * key, key, 0.0, avatar.target)
    lit = replace(avatar, portrait=grey(lit_by(light, avatar, body, Motion.still(avatar.poses, avatar.expression))[0]))
    poses = avatar.poses.copy()
    poses[JOINT["head"]] += np.array([0, 0.6, 0], np.float32)
    turned = Motion.still(poses, avatar.expression)
    truth, _, picture = lit_by(light, avatar, body, turned)
    head = (picture.face >= 0) & (body.weights[body.faces[picture.face, 0], JOINT["head"]] > 0.5)
    view, ref = camera.around(lit, CameraPath(), 1, 25.0, avatar.regions.shape), reference(lit, body)
    off = [
        np.abs(control(known, body, turned, view).warp[0, ..., 0] - truth)[head].mean() for known in (ref, unlit(ref))
    ]
    assert off[0] < 0.5 * off[1]


def test_a_camera_that_moves_does_not_change_the_light(drawn, body):
    avatar, _, _ = drawn
    still, light = (
        Motion.still(avatar.poses, avatar.expression),
        PortraitLight(0.4 * unit(-0.5, 0.4, 0.75), unit(-0.5, 0.4, 0.75), -0.6, avatar.target),
    )
    ref = reference(replace(avatar, portrait=grey(lit_by(light, avatar, body, still)[0])), body)
    assert np.linalg.norm(ref.light.slope) > 0.2
    view = camera.around(avatar, CameraPath(azimuth=25, elevation=10), 1, 25.0, avatar.regions.shape)
    lit, plain = (control(known, body, still, view) for known in (ref, unlit(ref)))
    seen = minimum_filter(
        lit.visibility[0] == SEEN, 5
    )  # at its borders, and where a sample is hidden, the texture is mixed in
    assert seen.any() and (lit.warp[0][seen] == plain.warp[0][seen]).mean() > 0.98


def test_white_that_turns_to_the_light_stays_white(drawn, body):
    avatar, _, _ = drawn
    ref = reference(replace(avatar, portrait=np.full_like(avatar.portrait, 250)), body)
    bright = replace(
        ref,
        light=replace(ref.light, slope=np.array([0, 0, 0.6], np.float32)),
        shading=np.full(len(ref.shading), 0.6, np.float32),
    )
    maps = control(
        bright,
        body,
        Motion.still(avatar.poses, avatar.expression),
        camera.around(avatar, CameraPath(), 1, 25.0, avatar.regions.shape),
    )
    assert np.median(maps.warp[maps.visibility == SEEN]) == 255


def test_what_moves_a_little_moves_its_shadow_a_little(body):
    surface = Surface.of(body.template, body.faces)
    top = np.where(body.weights[:, JOINT["head"]] > 0.5, 1.0, 0.0)[:, None]
    key, target = unit(0.1, 0.9, 0.4), body.template[body.weights[:, JOINT["neck"]] > 0.5].mean(0)
    light = PortraitLight(np.zeros(3), key, -0.6, target)
    before, after = (
        light.shading(
            Surface(surface.vertices + (top * [0.001 * k, 0, 0]).astype(np.float32), surface.normals, body.faces)
        )
        for k in (0, 1)
    )
    chest = (top[:, 0] == 0) & (before < 0.9)
    assert chest.sum() > 20 and np.abs(np.log(after / before))[top[:, 0] == 0].max() < 0.1 * 0.6 * 2


def test_what_nothing_hides_lies_in_no_shadow():
    side = np.linspace(-0.4, 0.4, 60, dtype=np.float32)
    x, y = np.meshgrid(side, side)
    flat = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    corner = (np.arange(59)[:, None] * 60 + np.arange(59)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 61], 1), np.stack([corner, corner + 61, corner + 60], 1)]
    ).astype(np.int32)
    surface = Surface.of(flat, faces)
    for degrees in (0, 40, 70):
        key = unit(np.sin(np.radians(degrees)), 0.01, np.cos(np.radians(degrees)))
        assert PortraitLight(np.zeros(3), key, -0.6, np.zeros(3)).shading(surface).min() > 0.97


def test_a_portrait_that_tells_no_light_is_lit_from_everywhere(drawn, body):
    avatar, _, _ = drawn
    _, surface, picture = lit_by(
        PortraitLight(np.zeros(3), np.zeros(3), 0.0, avatar.target),
        avatar,
        body,
        Motion.still(avatar.poses, avatar.expression),
    )
    for valid, portrait in (
        (np.zeros_like(picture.face, bool), avatar.portrait),
        (np.ones_like(picture.face, bool), np.zeros_like(avatar.portrait)),
    ):
        found = read_light(portrait, avatar.regions, valid, surface, picture, avatar.target)
        assert np.array_equal(found.shading(surface), np.ones(len(surface.vertices)))
