"""People: who they are, what they wear, how they move, and that the labels are what the z-buffer shows."""

from dataclasses import replace

import numpy as np
import pytest

from stereotalker.acting import arm_ik, gestures
from stereotalker.acting.collision import keep_clear
from stereotalker.acting.reference_acting import STYLES, accent_times, act, closed_spans, gesture_plan
from stereotalker.avatar.hair_depth import BARE_HEAD, HairRule, hair_depth
from stereotalker.body.free_body import PARTS
from stereotalker.body.model import _smplx_model, load_body
from stereotalker.body.shape_space import FACES
from stereotalker.control.background_plate import BACKGROUND_M, background_plate
from stereotalker.control.reference_warp import control, reference
from stereotalker.errors import ClipError, UserError
from stereotalker.geometry.camera import around, project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rasterizer import rasterize, vertex_normals
from stereotalker.records import Camera, Motion, Timed
from stereotalker.smplx_layout import ACTION, JOINT, REGION
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.anatomy import anatomy
from stereotalker.synthetic.backgrounds import draw_backdrop, read_picture
from stereotalker.synthetic.bound_mesh import clip, subdivide, submesh
from stereotalker.synthetic.contact import TOUCH_M, buried
from stereotalker.synthetic.fit_silhouette import fit_silhouette, seen_in_portrait
from stereotalker.synthetic.hair import STYLES as HAIR
from stereotalker.synthetic.population import OUTFITS, SKIN_TONES, draw_person
from stereotalker.synthetic.shading import render
from stereotalker.synthetic.takes import CaptureSetup, capture_take, key_points
from stereotalker.synthetic.wardrobe import dress
from stereotalker.training.samples import to_sample, wrong_fit

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("people")]

SHOT = CaptureSetup(size=96, cameras=3, frames=2, fps=5.0, swing=20.0, supersample=1)


@pytest.fixture(scope="module")
def actor(body):
    return build_actor(19, body, 96, 1)  # short parted hair, beard, glasses, sweater


@pytest.fixture(scope="module")
def avatar(actor):
    return actor.avatar


def still(avatar, frames=1):
    return Motion(
        np.repeat(avatar.poses[None], frames, 0),
        np.repeat(avatar.expression[None], frames, 0),
        np.zeros((frames, 3), np.float32),
        25.0,
    )


def own_view(avatar, frames=1):
    zeros = np.zeros(frames, np.float32)
    return Camera(
        np.repeat(avatar.intrinsics[None], frames, 0),
        np.repeat(avatar.extrinsics[None], frames, 0),
        zeros,
        zeros,
        avatar.regions.shape,
    )


# ---- who they are --------------------------------------------------------------------------------------------------------


def test_any_run_of_identities_is_adult_and_balanced():
    people = [draw_person(k, len(STYLES)) for k in range(300, 400)]
    assert all(20 <= p.age <= 80 and p.outfit in OUTFITS for p in people)
    tones = np.bincount([p.tone for p in people], minlength=len(SKIN_TONES))
    assert tones.min() >= 8 and 45 <= sum(p.presentation == "feminine" for p in people) <= 55
    assert len({p.hair for p in people} & set(HAIR)) >= 8 and {p.headwear for p in people} >= {"none", "scarf", "cap"}
    assert {p.build for p in people} == {"slight", "average", "athletic", "heavy"}


@pytest.mark.parametrize("outfit", OUTFITS)
def test_every_outfit_covers_the_trunk(body, outfit):
    known = anatomy(body)
    worn = dress(replace(draw_person(7, len(STYLES)), outfit=outfit), known, body.template.astype(np.float64))
    y, x = body.template[:, 1], np.abs(body.template[:, 0])
    trunk = known.skin & (known.torso > 0.9) & (y > 0.12) & (y < 0.55) & (x < 0.19)
    legs = known.skin & (y > -0.02) & (y < 0.05) & (x < 0.17)
    assert worn.covered[trunk].min() > 0 and worn.covered[legs].min() > 0
    assert np.isfinite(worn.surface).all() and np.abs(worn.surface).max() < 0.12


def test_identities_differ_and_repeat(body, avatar):
    again, other = build_actor(19, body, 96, 1).avatar, build_actor(2, body, 96, 1).avatar
    assert np.array_equal(again.portrait, avatar.portrait) and np.array_equal(again.surface, avatar.surface)
    assert not np.array_equal(other.betas, avatar.betas) and not np.array_equal(other.portrait, avatar.portrait)
    counts = np.bincount(other.regions.ravel(), minlength=8)
    assert (
        counts[REGION["torso"]] > 0.05 * other.regions.size
        and counts[REGION["face"]] > 0.005 * other.regions.size
        and counts[REGION["hair"]] > 0
    )


def test_shapes_need_their_file(body, tmp_path, monkeypatch):
    monkeypatch.setattr("stereotalker.synthetic.figure.FACES", tmp_path / "none.npz")
    with pytest.raises(UserError, match="dvc repro body"):
        build_actor(0, body, 32, 1)
    assert FACES.is_file()


# ---- what is drawn -------------------------------------------------------------------------------------------------------


def test_labels_are_what_the_z_buffer_shows(body, actor):
    """The mask against a second rasterisation, texels looked up one by one: IoU 1 in every region."""
    avatar, figure = actor.avatar, actor.dressed.figure
    posed = body.posed(still(avatar), avatar.betas, actor.dressed.face)
    points = figure.binding.pose(posed.vertices[0], posed.turn[0])
    bald = replace(figure, strands=replace(figure.strands, first=figure.strands.first[:1]))
    plate = np.full((*avatar.regions.shape, 3), 90, np.uint8)
    picture = render(bald, posed.vertices[0], posed.turn[0], avatar.intrinsics, avatar.extrinsics, actor.light, plate)
    seen = rasterize(project(points, avatar.intrinsics, avatar.extrinsics), figure.faces, plate.shape[:2])
    truth = np.zeros(plate.shape[:2], np.uint8)
    for y, x in np.argwhere(seen.face >= 0):
        f, b = seen.face[y, x], seen.bary[y, x]
        R = int(figure.texels.fineness[f])
        lattice = [(i, j) for j in range(R + 1) for i in range(R + 1 - j)]
        away = [max(abs(b[1] * R - i), abs(b[2] * R - j), abs(b[0] * R - (R - i - j))) for i, j in lattice]
        nearest = np.flatnonzero(np.isclose(away, min(away), atol=1e-4))
        found = {int(figure.texels.region[figure.texels.first[f] + k]) for k in nearest}
        truth[y, x] = picture.regions[y, x] if int(picture.regions[y, x]) in found else found.pop()
    assert np.array_equal(picture.regions, truth)
    assert np.array_equal(np.isfinite(picture.depth), seen.face >= 0)
    assert np.array_equal(picture.image[seen.face < 0], plate[seen.face < 0])


def test_hair_is_labelled_and_in_front_of_what_it_hides(body, actor):
    avatar = actor.avatar
    posed = body.posed(still(avatar), avatar.betas, actor.dressed.face)
    plate = np.full((*avatar.regions.shape, 3), 90, np.uint8)

    def draw(figure):
        return render(
            figure, posed.vertices[0], posed.turn[0], avatar.intrinsics, avatar.extrinsics, actor.light, plate
        )

    figure = actor.dressed.figure
    whole, bald = draw(figure), draw(replace(figure, strands=replace(figure.strands, first=figure.strands.first[:1])))
    changed = whole.depth < bald.depth
    assert changed.sum() > 100 and (whole.regions[changed] == REGION["hair"]).mean() > 0.6
    assert np.array_equal(whole.regions[~changed], bald.regions[~changed])


def test_supersampled_labels_are_the_vote_of_the_finer_picture(body, actor):
    """Hair included: every label is the commonest of the four pixels of a picture twice as large."""
    avatar, s = actor.avatar, 2
    posed = body.posed(still(avatar), avatar.betas, actor.dressed.face)
    K = avatar.intrinsics.copy()
    K[:2] *= s
    plate = np.full((*avatar.regions.shape, 3), 90, np.uint8)

    def draw(k, p, n):
        return render(actor.dressed.figure, posed.vertices[0], posed.turn[0], k, avatar.extrinsics, actor.light, p, n)

    fine, coarse = draw(K, np.repeat(np.repeat(plate, s, 0), s, 1), 1), draw(avatar.intrinsics, plate, s)
    H, W = coarse.regions.shape
    blocks = fine.regions.reshape(H, s, W, s).transpose(0, 2, 1, 3).reshape(H, W, -1)
    votes = np.apply_along_axis(lambda b: np.bincount(b, minlength=8).argmax(), 2, blocks)
    assert np.array_equal(coarse.regions, votes) and (votes == REGION["hair"]).sum() > 50
    assert np.array_equal(coarse.depth, fine.depth.reshape(H, s, W, s).min((1, 3)))


def test_supersampling_only_smooths(body, actor):
    avatar = actor.avatar
    posed = body.posed(still(avatar), avatar.betas, actor.dressed.face)
    one, two = (
        render(
            actor.dressed.figure,
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
    avatar, face = actor.avatar, actor.dressed.face
    shut = avatar.expression.copy()
    shut[[ACTION["eyeBlinkLeft"], ACTION["eyeBlinkRight"]]] = 1
    figure, parts = actor.dressed.figure, {"eyes": 1, "mouth": 2}
    K = avatar.intrinsics.copy()
    K[:2] *= 6
    shown = {}
    for name, expression in (("rest", avatar.expression), ("shut", shut)):
        posed = body.posed(
            Motion(avatar.poses[None] * 0, expression[None], np.zeros((1, 3), np.float32), 25.0), avatar.betas, face
        )
        points = figure.binding.pose(posed.vertices[0], posed.turn[0])
        seen = rasterize(project(points, K, avatar.extrinsics), figure.faces, (576, 576)).face
        shown[name] = {part: int((figure.recess[seen[seen >= 0]] == number).sum()) for part, number in parts.items()}
    assert shown["rest"]["eyes"] > 20 and shown["shut"]["eyes"] <= 0.02 * shown["rest"]["eyes"]
    assert shown["rest"]["mouth"] <= 2


def test_key_points_agree_with_the_smplx_package(body, actor):
    """Joints as the reference package poses them fall on ours to half a pixel at 512 px."""
    avatar = actor.avatar
    shape = actor.dressed.face
    reference_body = load_body(body.path, "smplx", body.betas)
    motion = still(avatar)
    reference_body.pose(motion, avatar.betas, shape)
    model = _smplx_model(body.path, body.betas)
    import torch

    from stereotalker import smplx_layout as layout
    from stereotalker.geometry.rotations import axis_angle_to_matrix

    R = axis_angle_to_matrix(torch.from_numpy(motion.poses))
    out = model(
        betas=torch.from_numpy(avatar.betas)[None], expression=torch.from_numpy(motion.expression), global_orient=R[:, layout.GLOBAL_ORIENT],
        body_pose=R[:, layout.BODY], jaw_pose=R[:, layout.JAW], leye_pose=R[:, layout.LEFT_EYE], reye_pose=R[:, layout.RIGHT_EYE],
        left_hand_pose=R[:, layout.LEFT_HAND], right_hand_pose=R[:, layout.RIGHT_HAND], transl=torch.from_numpy(motion.trans),
    )  # fmt: skip
    K = avatar.intrinsics.copy()
    K[:2] *= 512 / 96
    theirs = project(out.joints[0, :55].detach().numpy(), K, avatar.extrinsics)
    ours = project(key_points(body, motion, actor.dressed)[0, :55], K, avatar.extrinsics)
    assert np.linalg.norm(theirs[:, :2] - ours[:, :2], axis=1).max() < 0.5


def test_meshes_are_cut_where_the_depth_is_zero(body):
    mesh = subdivide(submesh(len(body.template), anatomy(body).faces))
    height = mesh.canonical(body.template)[:, 1] - 0.5
    cut, edges = clip(mesh, height)
    kept = cut.canonical(body.template)[:, 1]
    assert kept.min() > 0.5 - 1e-3 and np.abs(kept[edges] - 0.5).max() < 1e-3
    assert np.allclose(np.asarray(cut.bind.sum(1)), 1)


# ---- how they move -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
def test_lips_close_on_every_bilabial(speech, body, style):
    motion = act(speech, style, 1, 25.0)
    aperture = body.lip_aperture(motion)
    times, limit = (np.arange(len(aperture)) + 0.5) / 25, 0.1 * np.percentile(aperture, 95)
    assert all(
        (aperture[(times > start - 0.04) & (times < end + 0.04)] < limit).any()
        for start, end in closed_spans(speech.phonemes)
    )
    assert np.percentile(aperture, 95) > 5.0


@pytest.mark.parametrize("fps", [12.0, 23.976, 60.0])
def test_acting_has_the_length_of_its_speech(speech, fps):
    assert len(act(speech, STYLES[0], 0, fps).poses) == round(speech.seconds * fps)


def test_strength_scales_the_hands(speech):
    def spread(strength):
        return act(speech, STYLES[2], 3, 25.0, strength).poses[:, JOINT["right_elbow"]].std(0).sum()

    assert spread(0.0) < 0.5 * spread(1.0) and spread(1.0) < 1.5 * spread(2.0)


def test_hands_arrive_where_they_are_sent(body):
    """Inverse kinematics against the body's own skinning, both sides, every sign's last pose."""
    rows = np.stack([sign.moves[-1][1].vector() for sign in gestures.GESTURE_CLASSES.values()])
    poses = np.zeros((len(rows), 55, 3), np.float32)
    for side in ("left", "right"):
        arm_ik.pose_arm(side, rows, poses)
    with np.load(body.path) as file:
        regressor = file["J_regressor"].argmax(1)
    vertices = body.posed(
        Motion(poses, np.zeros((len(rows), 52), np.float32), np.zeros((len(rows), 3), np.float32), 25.0),
        np.zeros(body.betas),
    ).vertices
    reachable = np.linalg.norm(rows[:, :3] - arm_ik.SHOULDER, axis=1) < arm_ik.REACH
    for side, mirror in (("left", 1), ("right", -1)):
        wrists = vertices[:, regressor[JOINT[f"{side}_wrist"]]] * np.array([mirror, 1, 1])
        assert np.linalg.norm(wrists - rows[:, :3], axis=1)[reachable].max() < 0.015
        assert (
            np.linalg.norm(poses[:, JOINT[f"{side}_wrist"]], axis=1).max()
            <= arm_ik.WRIST_SWING + 0.4 * arm_ik.FOREARM_TWIST
        )
        assert np.linalg.norm(poses[:, JOINT[f"{side}_elbow"]], axis=1).max() < arm_ik.ELBOW_BEND + arm_ik.FOREARM_TWIST
    assert reachable.mean() > 0.95


def test_words_have_gestures():
    words = tuple(
        Timed(text, 2.0 * k + 0.5, 2.0 * k + 0.9) for k, text in enumerate(("Huge,", "you", "banana", "nobody"))
    )
    plan = gestures.plan(words, np.array([]), 1.0, 1.0, np.random.default_rng(0))
    assert (
        [g.name for g in plan] == ["big", "you", "none"]
        and plan[1].hands == ("right",)
        and plan[0].hands == ("left", "right")
    )
    assert len(gestures.GESTURE_CLASSES) >= 25 and set(gestures.LEXICON.values()) <= set(gestures.GESTURE_CLASSES)
    assert len(STYLES) == 20 and len({s.name for s in STYLES}) == 20 and {s.rest for s in STYLES} <= set(gestures.RESTS)


def test_a_stroke_falls_on_its_stressed_syllable(speech):
    accents = accent_times(speech.phonemes)
    for gesture in gesture_plan(speech, STYLES[2], 5):
        inside = any(w.start - 0.05 <= gesture.time <= w.end + 0.05 for w in speech.words)
        assert inside or np.abs(accents - gesture.time).min() < 0.05


def test_hands_stay_out_of_the_body(body, actor, speech):
    known, avatar = anatomy(body), actor.avatar
    for style in STYLES[::4]:
        motion = act(speech, style, 2, 4.0, 1.0, actor.girth)
        vertices = body.posed(motion, avatar.betas, avatar.surface).vertices
        assert np.mean([buried(known, v) > 0.006 for v in vertices]) <= 0.1, style.name


def test_clearance_pushes_out_and_apart():
    inside = gestures.RESTS["together"][0].vector()
    inside[:3] = (0.05, 0.40, 0.05)
    hands = {"left": inside[None].copy(), "right": inside[None].copy()}
    keep_clear(hands, 0.0)
    assert hands["left"][0, 2] > 0.15 and hands["left"][0, 2] > hands["right"][0, 2]


# ---- takes, warps, backgrounds -------------------------------------------------------------------------------------------


def test_a_take_is_a_function_of_its_seed(body, actor, speech):
    one, two = (capture_take(actor, body, speech, 0, 4, SHOT) for _ in range(2))
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


def test_a_slow_film_has_the_mouths_of_fast_acting(body, actor, speech):
    """Frames of a film at 3 a second are moments of the same acting, not an average of it."""
    slow = capture_take(actor, body, speech, 0, 4, replace(SHOT, frames=40, fps=3.0)).motion
    fast = capture_take(actor, body, speech, 0, 4, replace(SHOT, frames=400, fps=25.0)).motion
    at = np.minimum(((np.arange(len(slow.poses)) + 0.5) / 3.0 * 25).astype(int), len(fast.poses) - 1)
    assert (
        len(slow.poses) > 4
        and np.array_equal(slow.expression, fast.expression[at])
        and np.array_equal(slow.poses[:, JOINT["jaw"]], fast.poses[at][:, JOINT["jaw"]])
    )


def test_hands_are_clear_of_every_build(body, speech):
    for identity in (9, 24, 31):
        other = build_actor(identity, body, 32, 1)
        for motion in (still(other.avatar), capture_take(other, body, speech, 0, 1, SHOT).motion):
            vertices = body.posed(motion, other.avatar.betas, other.avatar.surface).vertices
            assert max(buried(anatomy(body), v) for v in vertices) < TOUCH_M


def test_hands_that_cannot_be_freed_refuse_the_take(body, actor, speech, monkeypatch):
    monkeypatch.setattr("stereotalker.synthetic.contact.buried", lambda *_: 0.02)
    with pytest.raises(ClipError, match="20 mm inside the body"):
        capture_take(actor, body, speech, 0, 4, SHOT)


def test_speech_shorter_than_the_shot(body, actor, speech):
    brief = replace(speech, samples=speech.samples[:4800])
    assert capture_take(actor, body, brief, 0, 4, SHOT).image.shape[1] == 2
    assert capture_take(actor, body, replace(speech, samples=speech.samples[:1600]), 0, 4, SHOT).image.shape[1] == 1


def test_warp_at_the_portraits_own_pose_is_the_portrait(avatar, body):
    maps = control(reference(avatar, body), body, still(avatar), own_view(avatar))
    person = avatar.regions > 0
    error = (maps.warp[0].astype(float) - avatar.portrait)[person & (maps.visibility[0] > 0)]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30
    assert (maps.labels[0] > 0).sum() == pytest.approx(person.sum(), rel=0.06)
    assert (maps.labels[0] == avatar.regions).mean() > 0.95


def test_control_hardly_depends_on_the_batch(avatar, body):
    ref = reference(avatar, body)
    whole = control(ref, body, still(avatar, 3), own_view(avatar, 3))
    single = control(ref, body, still(avatar, 1), own_view(avatar, 1))
    for name in (
        "warp",
        "normals",
        "labels",
    ):  # to rounding; exact equality is the segments' business, whose batches are fixed
        assert (getattr(whole, name)[2] != getattr(single, name)[0]).mean() < 0.01
    with pytest.raises(ValueError, match="3 frames"):
        control(ref, body, still(avatar, 3), own_view(avatar, 1))


def test_background_stands_still_with_the_camera(avatar):
    plate = background_plate(avatar, avatar.intrinsics, avatar.extrinsics, avatar.regions.shape)
    assert np.abs(plate.astype(int) - avatar.background).max() <= 1
    wide = background_plate(avatar, avatar.intrinsics, avatar.extrinsics, (64, 160))
    assert wide.shape == (64, 160, 3)


@pytest.mark.parametrize(
    "move", [{"azimuth": 20}, {"azimuth": -12, "elevation": 8}, {"distance": 0.8}, {"zoom": 1.3, "rise": 0.1}]
)
def test_background_moves_with_its_wall(avatar, move):
    spot = np.array([[0.1, avatar.target[1] + 0.1, -BACKGROUND_M]], np.float32)  # on the wall, m
    H, W = avatar.regions.shape
    rows, columns = np.mgrid[:H, :W] + 0.5
    x, y, _ = project(spot, avatar.intrinsics, avatar.extrinsics)[0]
    dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    dotted = replace(avatar, background=np.repeat(np.rint(255 * dot)[..., None], 3, 2).astype(np.uint8))
    view = around(avatar, CameraPath(**move), 1, 25.0, (H, W))
    seen = background_plate(dotted, view.intrinsics[0], view.extrinsics[0], (H, W))[..., 0].astype(float)
    middle = np.array([(columns * seen).sum(), (rows * seen).sum()]) / seen.sum()
    assert np.abs(middle - project(spot, view.intrinsics[0], view.extrinsics[0])[0, :2]).max() < 0.3


def test_background_mirrors_beyond_its_edges(avatar):
    H, W = avatar.regions.shape
    ramp = replace(
        avatar, background=np.repeat(np.linspace(0, 255, W)[None, :, None], H, 0).repeat(3, 2).astype(np.uint8)
    )
    wide = background_plate(
        ramp,
        avatar.intrinsics + np.array([[0, 0, W / 2], [0, 0, 0], [0, 0, 0]], np.float32),
        avatar.extrinsics,
        (H, 2 * W),
    )[H // 2, :, 0].astype(int)
    assert (
        np.abs(wide[: W // 2][::-1] - wide[W // 2 : W]).max() <= 4
        and np.abs(wide[3 * W // 2 :] - wide[W : 3 * W // 2][::-1]).max() <= 4
    )


def test_backdrops_are_of_four_kinds_or_the_users_own(tmp_path):
    drawn = [draw_backdrop(k, (48, 70)) for k in range(24)]
    assert {kind for _, kind in drawn} == {"studio", "room", "bokeh", "garden"} and all(
        image.shape == (48, 70, 3) for image, _ in drawn
    )
    from PIL import Image

    Image.new("RGB", (300, 100), (200, 30, 30)).save(tmp_path / "red.png")
    own = [draw_backdrop(k, (48, 70), (tmp_path / "red.png",)) for k in range(24)]
    assert 5 < sum(kind == "red.png" for _, kind in own) < 19
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n not a picture")
    with pytest.raises(UserError, match=r"broken.png cannot be read as a picture"):
        read_picture(tmp_path / "broken.png", (48, 70))


def test_a_wrong_fit_looks_right_in_the_portrait_and_moves_wrongly(avatar, body):
    wrong = wrong_fit(avatar, body, 1)
    assert np.abs(wrong.betas - avatar.betas).max() > 0.1
    skin = body.part == 0
    off = np.linalg.norm(
        (seen_in_portrait(wrong, body).pixels - seen_in_portrait(avatar, body).pixels)[skin, :2], axis=1
    )
    assert np.median(off) < 0.01 * avatar.regions.shape[0]
    turned = avatar.poses.copy()
    turned[[JOINT["left_shoulder"], JOINT["right_shoulder"], JOINT["head"]], 0] += 0.4
    driven = Motion.still(turned, avatar.expression)
    places = [body.pose(driven, a.betas, a.surface)[0] for a in (avatar, wrong)]
    assert np.linalg.norm(places[0] - places[1], axis=1)[skin].max() > 0.01
    assert np.abs(wrong_fit(avatar, body, 1, 0.0).surface.astype(float) - avatar.surface).max() < 2e-3


def test_a_tailored_surface_covers_the_portraits_outline(avatar, body):
    def covered(a):
        seen = seen_in_portrait(a, body)
        drawn, person = rasterize(seen.pixels, body.faces, a.regions.shape).face >= 0, a.regions > 0
        return (drawn & person).sum() / (drawn | person).sum()

    bare = replace(avatar, surface=avatar.surface * np.float16(0.3))
    assert covered(fit_silhouette(bare, body)) > max(0.95, covered(bare) + 0.01)


def test_bushy_hair_stands_in_front_of_the_skull_and_skin_stays(body):
    avatar = build_actor(145, body, 96, 1).avatar
    before, after = (
        rasterize(seen_in_portrait(a, body).pixels, body.faces, avatar.regions.shape)
        for a in (avatar, fit_silhouette(avatar, body))
    )
    both = (before.face >= 0) & (after.face >= 0)
    places = [both & (avatar.regions == REGION[name]) for name in ("hair", "face")]
    hair, face = (np.median(before.depth[place] - after.depth[place]) for place in places)
    assert 0.008 < hair < 0.06 and abs(face) < 0.002


def test_frames_may_be_smaller_than_the_portrait(body, actor, speech):
    take = capture_take(actor, body, speech, 0, 4, replace(SHOT, size=48, frames=1))
    assert take.image.shape == (3, 1, 48, 48, 3) and take.avatar.portrait.shape == (96, 96, 3)
    sample = to_sample(take, body, 0, 0.0)
    assert sample.portrait.shape == (48, 48, 3) and (sample.labels == sample.regions).mean() > 0.9


def test_a_wrong_fit_is_driven_in_its_own_angles(body, actor, speech):
    """Who stands as in the portrait looks as in the portrait, however wrong the fit takes that posture to be."""
    take = capture_take(actor, body, speech, 0, 4, replace(SHOT, frames=1))
    sample = to_sample(replace(take, motion=still(take.avatar)), body, 0, 1.0)
    shown, portrait = sample.labels[0], take.avatar.regions
    assert ((shown > 0) & (portrait > 0)).sum() / ((shown > 0) | (portrait > 0)).sum() > 0.93
    assert np.abs(sample.warp[0].astype(float) - take.avatar.portrait)[(shown > 0) & (portrait > 0)].mean() < 10


def test_offsets_of_the_view_move_the_surface_so_in_the_view(avatar, body):
    moved = replace(
        avatar,
        intrinsics=avatar.intrinsics + np.array([[0, 0, 7], [0, 0, -5], [0, 0, 0]], np.float32),
        surface=avatar.surface * np.float16(0),
    )
    seen = seen_in_portrait(moved, body)
    offsets = seen.to_rest(np.full((len(seen.pixels), 2), (1.5, -2.0)), np.full(len(seen.pixels), 0.01))
    after = seen_in_portrait(replace(moved, surface=offsets.astype(np.float16)), body)
    off = np.abs(after.pixels - seen.pixels - (1.5, -2.0, -0.01))[body.part == 0]
    assert (
        np.median(off[:, :2]) < 0.05 and np.median(off[:, 2]) < 3e-4
    )  # joints are vertices, so they move a little as well


def test_who_shows_no_hair_or_fills_the_picture_keeps_the_head(avatar, body):
    seen = seen_in_portrait(avatar, body)
    nothing, held, rule = np.zeros((len(seen.pixels), 2)), np.zeros(len(seen.pixels), np.float32), HairRule(1.0, 0.03)
    bald = np.where(avatar.regions == REGION["hair"], REGION["face"], avatar.regions)
    speck = bald.copy()
    speck[tuple(np.argwhere(avatar.regions == REGION["hair"])[:3].T)] = REGION["hair"]
    for regions in (bald, speck, np.zeros_like(bald), np.full_like(bald, REGION["hair"])):
        assert not hair_depth(seen, nothing, held, regions, body, rule).any()
    cropped = avatar.regions.copy()
    cropped[:-20], cropped[-20:] = avatar.regions[20:], REGION["torso"]  # the head is cut by the upper edge
    nearer = hair_depth(seen, nothing - (0, 20), held, cropped, body, rule)
    assert np.isfinite(nearer).all() and np.abs(nearer).max() < 0.08


def test_hair_that_stands_out_stands_off_before_and_behind_and_skin_stays(avatar, body):
    seen = seen_in_portrait(avatar, body)
    held, head = np.zeros(len(seen.pixels), np.float32), body.weights[:, JOINT["head"]] > 0.5
    away = seen.pixels[:, :2] - seen.pixels[head & (body.part == PARTS["body"][0]), :2].mean(0)
    spread = 4.0 * away / np.linalg.norm(away, axis=1, keepdims=True)  # px that hair stands out all around
    nearer = hair_depth(seen, spread, held, avatar.regions, body, BARE_HEAD)
    moved = seen.pixels[:, :2] + spread
    columns, rows = (np.clip(moved[:, k].astype(int), 0, avatar.regions.shape[1 - k] - 1) for k in (0, 1))
    skin = np.isin(avatar.regions[rows, columns], [REGION["face"], REGION["mouth"]])
    away = (vertex_normals(seen.vertices, body.faces) @ seen.rotation.T)[:, 2]
    assert 0.01 < nearer.max() < 0.08 and nearer[head & (away > 0.8)].min() < -0.01
    assert np.abs(nearer[skin & (away < 0)]).max() < 0.002 and not nearer[~head].any()
