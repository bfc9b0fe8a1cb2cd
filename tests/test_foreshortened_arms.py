"""Arms that the portrait shows short, and that a frame shows long."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stereotalker.control.foreshortened_arms import ONTO_HAND_M, SmoothedArms
from stereotalker.control.layers import ARM, HAND, TRUNK, vertex_layers
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT

UPPER_END, ELBOW, WRIST, LONG = 0.35, 0.46, 0.71, 0.72  # m along the arm


STRAIGHT, RAISED, AT_CAMERA = (0, 0, 0), (0, -np.radians(60), 0), (0, -np.radians(90), 0)


def posed_avatar(avatar, elbow):
    """The avatar with straight arms, but for its left elbow, axis-angle, rad."""
    poses = np.zeros_like(avatar.poses)
    poses[JOINT["left_elbow"]] = elbow
    return replace(avatar, poses=poses)


def share(avatar, body, sleeve_end, elbow):
    """`SmoothedArms.share` of the portrait's camera for a frame with this left elbow, [V]."""
    frame = posed_avatar(avatar, elbow)
    posed = body.posed_joints(Motion.still(frame.poses, frame.expression), avatar.betas, avatar.surface)
    return SmoothedArms(avatar, body, sleeve_end).share(posed, avatar.extrinsics[None])[0]


def parts(body):
    layer, reach = vertex_layers(body), np.abs(body.template[:, 0])
    forearm = (layer == ARM) & (reach > ELBOW + 0.05)
    return forearm, (layer == ARM) & (reach < UPPER_END), layer == ARM + 1, layer == TRUNK


@pytest.mark.parametrize("sleeve_end", [UPPER_END, LONG])
def test_a_forearm_that_points_at_the_camera_is_smoothed_when_it_is_raised(fitted, body, sleeve_end):
    avatar = posed_avatar(fitted.avatar, AT_CAMERA)
    assert not share(avatar, body, sleeve_end, AT_CAMERA).any()  # the portrait's own pose
    raised = share(avatar, body, sleeve_end, RAISED)
    forearm, upper, other, trunk = (raised[part] for part in parts(body))
    assert forearm.mean() > 0.9 and upper.max() < 0.05 and not other.any() and not trunk.any()


def test_an_arm_that_is_seen_from_the_side_keeps_its_pixels(fitted, body):
    avatar = posed_avatar(fitted.avatar, STRAIGHT)
    assert not share(avatar, body, UPPER_END, RAISED).any()
    other_side = (np.radians(100), 0, 0)
    assert share(avatar, body, UPPER_END, other_side)[parts(body)[0]].mean() > 0.9
    assert not share(avatar, body, LONG, other_side).any()  # cloth that the portrait shows well


def test_a_palm_fades_with_its_bare_forearm_and_fingers_do_not(fitted, body):
    avatar = posed_avatar(fitted.avatar, AT_CAMERA)
    layer, reach = vertex_layers(body), np.abs(body.template[:, 0])
    palm, fingers = (layer == HAND) & (reach < WRIST + 0.02), (layer == HAND) & (reach > WRIST + 2 * ONTO_HAND_M)
    bare, sleeved = (share(avatar, body, end, RAISED) for end in (UPPER_END, LONG))
    assert bare[palm].mean() > 0.8 and bare[fingers].mean() < 0.01
    assert sleeved[palm].mean() < 0.5 and sleeved[fingers].mean() < 0.01


def test_a_camera_that_moves_aside_counts_as_a_turn(fitted, body):
    avatar = posed_avatar(fitted.avatar, AT_CAMERA)
    posed = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)
    aside = avatar.extrinsics.copy()
    turn = Rotation.from_rotvec((0, np.radians(30), 0)).as_matrix()
    middle = posed[0][0, JOINT["spine3"]]
    aside[:3, 3] += aside[:3, :3] @ (middle - turn @ middle)
    aside[:3, :3] = aside[:3, :3] @ turn
    smoothed = SmoothedArms(avatar, body, UPPER_END)
    own, turned = (smoothed.share(posed, view[None])[0] for view in (avatar.extrinsics, aside))
    assert not own.any() and turned[parts(body)[0]].mean() > 0.9


def test_smooth_parts_are_skin_and_sleeves_of_short_forearms(fitted, body):
    layer, reach = np.array([TRUNK, ARM, ARM, ARM, HAND, HAND, ARM + 1]), np.array([0.1, 0.2, 0.4, 0.6, 0.73, 0.8, 0.6])
    short, long = (posed_avatar(fitted.avatar, elbow) for elbow in (AT_CAMERA, STRAIGHT))

    def smooth(avatar, sleeve_end):
        return SmoothedArms(avatar, body, sleeve_end).contains(layer, reach).tolist()

    of_sleeve = SmoothedArms(short, body, LONG).in_foreshortened_sleeve(layer, reach)
    assert of_sleeve.tolist() == smooth(short, LONG)
    assert not SmoothedArms(short, body, UPPER_END).in_foreshortened_sleeve(layer, reach).any()
    assert smooth(long, LONG) == [False, False, False, False, False, False, False]
    assert smooth(short, LONG) == [False, False, False, True, False, False, False]
    assert smooth(long, UPPER_END) == [False, False, True, True, True, False, True]
