"""Synthetic people: who they are, what they wear, how they are drawn, and the takes that are captured of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from avatar_helpers import SMALL_CAPTURE, still_motion
from PIL import Image

from stereotalker import smplx_layout as layout
from stereotalker.acting.reference_acting import STYLES
from stereotalker.body.model import _smplx_model, load_body
from stereotalker.body.shape_space import SHAPE_SPACE_FILE
from stereotalker.errors import ClipError, UserError
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, JOINT, REGION
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.anatomy import anatomy
from stereotalker.synthetic.backgrounds import draw_background, read_picture
from stereotalker.synthetic.bound_mesh import clip, subdivide, submesh
from stereotalker.synthetic.contact import TOUCH_M, hand_penetration
from stereotalker.synthetic.hair import STYLES as HAIR
from stereotalker.synthetic.population import OUTFITS, SKIN_TONES, draw_person
from stereotalker.synthetic.shading import render
from stereotalker.synthetic.takes import capture_take, compute_keypoints
from stereotalker.synthetic.wardrobe import dress
from stereotalker.training.samples import to_sample

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]


# ---- identities ----


def test_any_hundred_identities_are_adult_and_balanced():
    people = [draw_person(k, len(STYLES)) for k in range(300, 400)]
    assert all(20 <= p.age <= 80 and p.outfit in OUTFITS for p in people)
    tones = np.bincount([p.tone for p in people], minlength=len(SKIN_TONES))
    assert tones.min() >= 8 and 45 <= sum(p.presentation == "feminine" for p in people) <= 55
    assert len({p.hair for p in people} & set(HAIR)) >= 8 and {p.headwear for p in people} >= {"none", "scarf", "cap"}
    assert {p.build for p in people} == {"slight", "average", "athletic", "heavy"}


@pytest.mark.parametrize("outfit", OUTFITS)
def test_every_outfit_covers_the_trunk(body, outfit):
    measures = anatomy(body)
    clothes = dress(replace(draw_person(7, len(STYLES)), outfit=outfit), measures, body.template.astype(np.float64))
    y, x = body.template[:, 1], np.abs(body.template[:, 0])
    trunk = measures.skin & (measures.torso > 0.9) & (y > 0.12) & (y < 0.55) & (x < 0.19)
    legs = measures.skin & (y > -0.02) & (y < 0.05) & (x < 0.17)
    assert clothes.covered[trunk].min() > 0 and clothes.covered[legs].min() > 0
    assert np.isfinite(clothes.surface).all() and np.abs(clothes.surface).max() < 0.12


def test_identities_differ_and_are_reproducible(body, avatar):
    same, other = build_actor(19, body, 96, 1).avatar, build_actor(2, body, 96, 1).avatar
    assert np.array_equal(same.portrait, avatar.portrait) and np.array_equal(same.surface, avatar.surface)
    assert not np.array_equal(other.betas, avatar.betas) and not np.array_equal(other.portrait, avatar.portrait)
    counts = np.bincount(other.regions.ravel(), minlength=8)
    assert (
        counts[REGION["torso"]] > 0.05 * other.regions.size
        and counts[REGION["face"]] > 0.005 * other.regions.size
        and counts[REGION["hair"]] > 0
    )


def test_a_missing_shape_file_is_refused(body, tmp_path, monkeypatch):
    monkeypatch.setattr("stereotalker.synthetic.figure.SHAPE_SPACE_FILE", tmp_path / "none.npz")
    with pytest.raises(UserError, match="dvc repro body"):
        build_actor(0, body, 32, 1)
    assert SHAPE_SPACE_FILE.is_file()


# ---- drawing ----


def test_region_labels_match_the_z_buffer(body, actor):
    """The region labels against a second rasterization in which texels are looked up one by one: they are equal."""
    avatar, figure = actor.avatar, actor.dressed_person.figure
    posed = body.posed(still_motion(avatar), avatar.betas, actor.dressed_person.face)
    points = figure.binding.pose(posed.vertices[0], posed.turn[0])
    bald = replace(figure, strands=replace(figure.strands, first=figure.strands.first[:1]))
    plate = np.full((*avatar.regions.shape, 3), 90, np.uint8)
    picture = render(bald, posed.vertices[0], posed.turn[0], avatar.intrinsics, avatar.extrinsics, actor.light, plate)
    fragments = rasterize(project(points, avatar.intrinsics, avatar.extrinsics), figure.faces, plate.shape[:2])
    truth = np.zeros(plate.shape[:2], np.uint8)
    for y, x in np.argwhere(fragments.face >= 0):
        face, bary = fragments.face[y, x], fragments.bary[y, x]
        R = int(figure.texels.resolution[face])
        lattice = [(i, j) for j in range(R + 1) for i in range(R + 1 - j)]
        distance = [max(abs(bary[1] * R - i), abs(bary[2] * R - j), abs(bary[0] * R - (R - i - j))) for i, j in lattice]
        nearest = np.flatnonzero(np.isclose(distance, min(distance), atol=1e-4))
        allowed = {int(figure.texels.region[figure.texels.first[face] + k]) for k in nearest}
        truth[y, x] = picture.regions[y, x] if int(picture.regions[y, x]) in allowed else allowed.pop()
    assert np.array_equal(picture.regions, truth)
    assert np.array_equal(np.isfinite(picture.depth), fragments.face >= 0)
    assert np.array_equal(picture.image[fragments.face < 0], plate[fragments.face < 0])


def test_hair_is_labeled_where_it_is_in_front(body, actor):
    avatar = actor.avatar
    posed = body.posed(still_motion(avatar), avatar.betas, actor.dressed_person.face)
    plate = np.full((*avatar.regions.shape, 3), 90, np.uint8)

    def draw(figure):
        return render(
            figure, posed.vertices[0], posed.turn[0], avatar.intrinsics, avatar.extrinsics, actor.light, plate
        )

    figure = actor.dressed_person.figure
    whole, bald = draw(figure), draw(replace(figure, strands=replace(figure.strands, first=figure.strands.first[:1])))
    changed = whole.depth < bald.depth
    assert changed.sum() > 100 and (whole.regions[changed] == REGION["hair"]).mean() > 0.6
    assert np.array_equal(whole.regions[~changed], bald.regions[~changed])


def test_supersampled_labels_are_the_majority_of_the_finer_picture(body, actor):
    """Each label, hair included, is the most frequent of the four pixels in a picture twice as large."""
    avatar, s = actor.avatar, 2
    posed = body.posed(still_motion(avatar), avatar.betas, actor.dressed_person.face)
    K = avatar.intrinsics.copy()
    K[:2] *= s
    plate = np.full((*avatar.regions.shape, 3), 90, np.uint8)

    def draw(k, p, n):
        return render(
            actor.dressed_person.figure, posed.vertices[0], posed.turn[0], k, avatar.extrinsics, actor.light, p, n
        )

    fine, coarse = draw(K, np.repeat(np.repeat(plate, s, 0), s, 1), 1), draw(avatar.intrinsics, plate, s)
    H, W = coarse.regions.shape
    blocks = fine.regions.reshape(H, s, W, s).transpose(0, 2, 1, 3).reshape(H, W, -1)
    votes = np.apply_along_axis(lambda b: np.bincount(b, minlength=8).argmax(), 2, blocks)
    assert np.array_equal(coarse.regions, votes) and (votes == REGION["hair"]).sum() > 50
    assert np.array_equal(coarse.depth, fine.depth.reshape(H, s, W, s).min((1, 3)))


def test_supersampling_changes_only_edges(body, actor):
    avatar = actor.avatar
    posed = body.posed(still_motion(avatar), avatar.betas, actor.dressed_person.face)
    one, two = (
        render(
            actor.dressed_person.figure,
            posed.vertices[0],
            posed.turn[0],
            avatar.intrinsics,
            avatar.extrinsics,
            actor.light,
            avatar.background,
            s,
        )
        for s in (1, 2)
    )
    assert (one.regions == two.regions).mean() > 0.96 and np.abs(one.image.astype(int) - two.image).mean() < 6


def test_closed_eyes_hide_the_eyeballs_and_closed_lips_the_teeth(body, actor):
    avatar, face = actor.avatar, actor.dressed_person.face
    closed = avatar.expression.copy()
    closed[[ACTION["eyeBlinkLeft"], ACTION["eyeBlinkRight"]]] = 1
    figure, parts = actor.dressed_person.figure, {"eyes": 1, "mouth": 2}
    K = avatar.intrinsics.copy()
    K[:2] *= 6
    visible_counts = {}
    for name, expression in (("rest", avatar.expression), ("shut", closed)):
        posed = body.posed(
            Motion(avatar.poses[None] * 0, expression[None], np.zeros((1, 3), np.float32), 25.0), avatar.betas, face
        )
        points = figure.binding.pose(posed.vertices[0], posed.turn[0])
        visible_faces = rasterize(project(points, K, avatar.extrinsics), figure.faces, (576, 576)).face
        visible_counts[name] = {
            part: int((figure.recess[visible_faces[visible_faces >= 0]] == number).sum())
            for part, number in parts.items()
        }
    assert (
        visible_counts["rest"]["eyes"] > 20 and visible_counts["shut"]["eyes"] <= 0.02 * visible_counts["rest"]["eyes"]
    )
    assert visible_counts["rest"]["mouth"] <= 2


def test_keypoints_agree_with_the_smplx_package(body, actor):
    """The joints that the smplx package poses differ from the keypoints by less than half a pixel at 512 px."""
    avatar = actor.avatar
    shape = actor.dressed_person.face
    reference_body = load_body(body.path, "smplx", body.betas)
    motion = still_motion(avatar)
    reference_body.pose(motion, avatar.betas, shape)
    model = _smplx_model(body.path, body.betas)
    R = axis_angle_to_matrix(torch.from_numpy(motion.poses))
    out = model(
        betas=torch.from_numpy(avatar.betas)[None],
        expression=torch.from_numpy(motion.expression),
        global_orient=R[:, layout.GLOBAL_ORIENT],
        body_pose=R[:, layout.BODY],
        jaw_pose=R[:, layout.JAW],
        leye_pose=R[:, layout.LEFT_EYE],
        reye_pose=R[:, layout.RIGHT_EYE],
        left_hand_pose=R[:, layout.LEFT_HAND],
        right_hand_pose=R[:, layout.RIGHT_HAND],
        transl=torch.from_numpy(motion.trans),
    )
    K = avatar.intrinsics.copy()
    K[:2] *= 512 / 96
    expected = project(out.joints[0, :55].detach().numpy(), K, avatar.extrinsics)
    keypoints = project(compute_keypoints(body, motion, actor.dressed_person)[0, :55], K, avatar.extrinsics)
    assert np.linalg.norm(expected[:, :2] - keypoints[:, :2], axis=1).max() < 0.5


def test_meshes_are_cut_where_the_function_is_zero(body):
    mesh = subdivide(submesh(len(body.template), anatomy(body).faces))
    height = mesh.canonical(body.template)[:, 1] - 0.5
    cut, edges = clip(mesh, height)
    kept = cut.canonical(body.template)[:, 1]
    assert kept.min() > 0.5 - 1e-3 and np.abs(kept[edges] - 0.5).max() < 1e-3
    assert np.allclose(np.asarray(cut.bind.sum(1)), 1)


# ---- takes ----


def test_a_take_is_a_function_of_its_seed(body, actor, speech):
    one, two = (capture_take(actor, body, speech, 0, 4, SMALL_CAPTURE) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.depth, two.depth)
    assert (
        one.image.shape == (3, 2, 96, 96, 3)
        and one.camera[0].azimuth[0] == 0
        and len({c.azimuth[0] for c in one.camera}) == 3
    )
    person = one.regions > 0
    assert (
        np.array_equal(np.isfinite(one.depth), person)
        and 0.8 < one.depth[person].min()
        and one.depth[person].max() < 2.6
    )
    sample = to_sample(one, body, 0, 1.0)
    assert sample.image.shape == (6, 96, 96, 3) and sample.angles.shape == (6, 2)
    error = ((sample.warp.astype(float) - sample.image)[sample.regions > 0] ** 2).mean()
    assert error < ((sample.portrait[None].astype(float) - sample.image)[sample.regions > 0] ** 2).mean()


def test_frames_at_a_low_rate_are_moments_of_the_full_acting(body, actor, speech):
    """Frames at 3 a second are moments of the acting at 25 a second, not averages of it."""
    slow = capture_take(actor, body, speech, 0, 4, replace(SMALL_CAPTURE, frames=40, fps=3.0)).motion
    fast = capture_take(actor, body, speech, 0, 4, replace(SMALL_CAPTURE, frames=400, fps=25.0)).motion
    index = np.minimum(((np.arange(len(slow.poses)) + 0.5) / 3.0 * 25).astype(int), len(fast.poses) - 1)
    assert (
        len(slow.poses) > 4
        and np.array_equal(slow.expression, fast.expression[index])
        and np.array_equal(slow.poses[:, JOINT["jaw"]], fast.poses[index][:, JOINT["jaw"]])
    )


def test_hands_stay_outside_bodies_of_every_build(body, speech):
    for identity in (9, 24, 31):
        other = build_actor(identity, body, 32, 1)
        for motion in (still_motion(other.avatar), capture_take(other, body, speech, 0, 1, SMALL_CAPTURE).motion):
            vertices = body.posed(motion, other.avatar.betas, other.avatar.surface).vertices
            assert max(hand_penetration(anatomy(body), v) for v in vertices) < TOUCH_M


def test_takes_with_hands_inside_the_body_are_refused(body, actor, speech, monkeypatch):
    monkeypatch.setattr("stereotalker.synthetic.contact.hand_penetration", lambda *_: 0.02)
    with pytest.raises(ClipError, match="20 mm inside the body"):
        capture_take(actor, body, speech, 0, 4, SMALL_CAPTURE)


def test_speech_shorter_than_the_take_gives_fewer_frames(body, actor, speech):
    brief = replace(speech, samples=speech.samples[:4800])
    assert capture_take(actor, body, brief, 0, 4, SMALL_CAPTURE).image.shape[1] == 2
    assert (
        capture_take(actor, body, replace(speech, samples=speech.samples[:1600]), 0, 4, SMALL_CAPTURE).image.shape[1]
        == 1
    )


def test_backgrounds_are_of_four_kinds_or_the_users_own(tmp_path):
    drawn = [draw_background(k, (48, 70)) for k in range(24)]
    assert {kind for _, kind in drawn} == {"studio", "room", "bokeh", "garden"} and all(
        image.shape == (48, 70, 3) for image, _ in drawn
    )
    Image.new("RGB", (300, 100), (200, 30, 30)).save(tmp_path / "red.png")
    from_files = [draw_background(k, (48, 70), (tmp_path / "red.png",)) for k in range(24)]
    assert 5 < sum(kind == "red.png" for _, kind in from_files) < 19
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n not a picture")
    with pytest.raises(UserError, match=r"broken.png cannot be read as a picture"):
        read_picture(tmp_path / "broken.png", (48, 70))


def test_frames_may_be_smaller_than_the_portrait(body, actor, speech):
    take = capture_take(actor, body, speech, 0, 4, replace(SMALL_CAPTURE, size=48, frames=1))
    assert take.image.shape == (3, 1, 48, 48, 3) and take.avatar.portrait.shape == (96, 96, 3)
    sample = to_sample(take, body, 0, 0.0)
    assert sample.portrait.shape == (48, 48, 3) and (sample.labels == sample.regions).mean() > 0.9
