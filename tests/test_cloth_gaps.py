"""Gaps between arm and trunk: closed where the portrait shows none, left open everywhere else."""

from dataclasses import replace

import numpy as np
import pytest

from stereotalker.control.cloth_gaps import close_gaps, cloth_contacts
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.layers import ARM, COUNT, TRUNK, make_layers, vertex_layers
from stereotalker.control.reference_warp import reference
from stereotalker.control.warp_kernels import GUESSED, SEEN
from stereotalker.smplx_layout import JOINT, REGION
from stereotalker.synthetic.actor import build_actor

SHAPE, TRUNK_COLOR, ARM_COLOR, WALL = (112, 144), (200, 40, 40), (100, 40, 40), (0, 0, 250)


def frame(gap: int):
    """Maps of a trunk to the left of an arm, `gap` px apart, and what `close_gaps` takes with them."""
    layer = np.full(SHAPE, COUNT)
    layer[20:100, 20:60], layer[20:100, 60 + gap : 80 + gap] = TRUNK, ARM
    covered = layer < COUNT
    warp = np.full((*SHAPE, 3), WALL, np.uint8)
    warp[layer == TRUNK], warp[layer == ARM] = TRUNK_COLOR, ARM_COLOR
    visibility = np.where(covered, SEEN, 0).astype(np.uint8)
    labels = np.where(covered, REGION["torso"], 0).astype(np.uint8)
    maps = FrameMaps(warp, visibility, labels, np.zeros_like(warp), np.zeros_like(labels), np.full(SHAPE, -1, np.int32))
    return maps, covered, layer, np.stack([covered, np.zeros_like(covered)])


def test_a_narrow_gap_between_contacts_is_closed_with_the_cloth_of_both():
    maps, covered, layer, contacts = frame(gap=3)
    close_gaps(maps, covered, layer, contacts)
    gap = maps.warp[22:98, 60:63]
    assert (gap[..., 2] < 60).all() and (gap[:, 0, 0] > gap[:, 2, 0]).all()  # red falls from the trunk to the arm
    assert (maps.visibility[22:98, 60:63] == GUESSED).all() and (maps.labels[22:98, 60:63] > 0).all()
    beside = np.ones(SHAPE, bool)
    beside[18:102, 58:66] = False
    assert (maps.warp[beside & ~covered] == WALL).all()
    assert (maps.visibility[covered] == SEEN).all()


def test_a_slit_of_one_pixel_is_closed_and_specks_on_an_outline_stay():
    maps, covered, layer, contacts = frame(gap=1)
    close_gaps(maps, covered, layer, contacts)
    assert (maps.visibility[22:98, 60] == GUESSED).all() and (maps.labels[22:98, 60] > 0).all()
    maps, covered, layer, contacts = frame(gap=0)
    covered[50:52, 60] = False
    maps.visibility[~covered] = 0
    close_gaps(maps, covered, layer, contacts)
    assert (maps.visibility[50:52, 60] == 0).all()


@pytest.mark.parametrize("size, is_closed", [(5, True), (8, False)])
def test_a_small_hole_beside_the_seam_is_closed_and_a_large_one_stays(size, is_closed):
    maps, covered, layer, contacts = frame(gap=0)
    hole = np.s_[50 : 50 + size, 66 : 66 + size]  # on the trunk, so that it lies on one side of the seam
    covered[hole] = False
    maps.visibility[~covered] = 0
    close_gaps(maps, covered, layer, contacts)
    assert (maps.visibility[hole] == (GUESSED if is_closed else 0)).all()


@pytest.mark.parametrize("why", ["too wide", "no contact", "one side only", "hair"])
def test_other_gaps_stay_open(why):
    maps, covered, layer, contacts = frame(gap=12 if why == "too wide" else 3)
    if why == "no contact":
        contacts[:] = False
    elif why == "one side only":
        contacts[:, layer == TRUNK] = False
    elif why == "hair":
        maps.labels[~covered] = REGION["hair"]
    close_gaps(maps, covered, layer, contacts)
    assert (maps.warp[~covered] == WALL).all() and (maps.visibility[~covered] == 0).all()


def test_contacts_lie_on_trunk_and_upper_arms_and_end_where_the_cloth_differs(body):
    avatar = build_actor(3, body, 128, 1).avatar
    ref = reference(avatar, body)
    layers, _ = make_layers(avatar, body, ref.places, np.ones(len(ref.places), np.float32))
    contacts, layer = cloth_contacts(body, layers, ref.places), vertex_layers(body)
    assert np.array_equal(contacts[:, body.faces].any(-1), ref.cloth_contacts) and contacts.any(1).all()
    for k, side in enumerate(("left", "right")):
        is_upper_arm = body.weights[:, JOINT[f"{side}_shoulder"]] > 0.5
        assert (is_upper_arm | (layer == TRUNK))[contacts[k]].all()
    arm = layers[ARM]
    other = replace(arm, picture=255 - arm.picture)
    changed = cloth_contacts(body, (*layers[:ARM], other, *layers[ARM + 1 :]), ref.places)
    assert changed[0].sum() < 0.1 * contacts[0].sum() and np.array_equal(changed[1], contacts[1])
