"""The measures of rendering: closed forms, the directions in which they must move, and their summaries."""

import numpy as np
import pytest

from stereotalker.evaluation import image_metrics, rendering
from stereotalker.evaluation.talking_portraits import TalkingPortrait, summary
from stereotalker.media.time_lag import best_lag, sound_lag


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(30, 220, (12, 16, 3)), np.ones((6, 6, 1))).astype(np.uint8)


def full_mask(picture):
    return np.ones(picture.shape[:2], bool)


def test_psnr_has_its_closed_form():
    assert image_metrics.psnr(255**2) == 0 and image_metrics.psnr(65.025) == pytest.approx(30)
    assert (
        image_metrics.squares(np.full((2, 3, 3), 12, np.uint8), np.full((2, 3, 3), 10, np.uint8)).tolist()
        == [[4, 4, 4]] * 2
    )


def test_similarity_is_one_for_the_same_picture_and_less_for_a_worse_copy(picture):
    shifted, noisy = (
        np.roll(picture, 2, 1),
        np.clip(picture + np.random.default_rng(1).normal(0, 12, picture.shape), 0, 255).astype(np.uint8),
    )
    assert image_metrics.ssim(picture, picture).min() == pytest.approx(1, abs=1e-4)
    assert image_metrics.haar_psi(picture, picture, full_mask(picture)) == pytest.approx(1, abs=1e-4)
    for worse in (shifted, noisy):
        assert (
            image_metrics.ssim(worse, picture).mean() < 0.97
            and image_metrics.haar_psi(worse, picture, full_mask(picture)) < 0.95
        )


def test_haar_psi_of_a_flat_picture_or_an_empty_region_is_undefined(picture):
    flat = np.full_like(picture, 90)
    # Beyond its border a picture counts as black, so that the border itself is an edge.
    interior = np.zeros(flat.shape[:2], bool)
    interior[16:-16, 16:-16] = True
    assert np.isnan(image_metrics.haar_psi(flat, flat, interior))
    assert np.isnan(image_metrics.haar_psi(picture, picture, ~full_mask(picture)))


def test_blur_reduces_sharpness(picture):
    soft = (picture.astype(int) + np.roll(picture, 1, 1) + np.roll(picture, 1, 0)) // 3
    assert image_metrics.sharpness(soft.astype(np.uint8), full_mask(picture)) < 0.7 * image_metrics.sharpness(
        picture, full_mask(picture)
    )


def test_outlines_within_the_tolerance_agree():
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    assert (
        image_metrics.boundary_f(truth, truth, 1) == 1 and image_metrics.boundary_f(np.roll(truth, 1, 1), truth, 1) == 1
    )
    assert image_metrics.boundary_f(np.roll(truth, 4, 1), truth, 1) < 0.7 and np.isnan(
        image_metrics.boundary_f(np.zeros_like(truth), truth, 1)
    )


def test_scores_are_averaged_over_every_field_left_open():
    scores = rendering.Scores()
    for view, value in (("front", 20.0), ("front", 22.0), ("20deg", 30.0), ("20deg", np.nan)):
        scores.add(value, "ours", "psnr", "exact", view, "person")
    assert (
        scores.mean("ours", "psnr", "exact", "front", "person") == 21
        and scores.mean("ours", "psnr", None, None, "person") == 24
    )
    assert np.isnan(scores.mean("warp", "psnr", None, None, "person"))


def test_flicker_is_one_for_the_truth_and_zero_for_a_still_picture():
    scores = rendering.Scores()
    for system, change in (("truth", 3.0), ("still", 0.0), ("noisy", 6.0)):
        scores.add(change, system, "change", "exact", "front", "person")
        scores.add(3.0, system, "true change", "exact", "front", "person")
    assert [rendering.flicker(scores, s, "exact", None) for s in ("truth", "still", "noisy")] == [1, 0, 2]


def test_expert_gains_are_measured_where_the_experts_work():
    scores = {kinds: rendering.Scores() for kinds in ("none", "view", "region")}
    for kinds, at_side, at_mouth in (("none", 20, 25), ("view", 21, 24), ("region", 20, 27)):
        scores[kinds].add(at_side, "ours", "psnr", "exact", "20deg", "person")
        for region in rendering.REGION_EXPERT_REGIONS:
            scores[kinds].add(at_mouth, "ours", "psnr", "exact", "front", region)
    assert rendering.expert_gains(scores) == {"gain_view_experts_db": 1, "gain_region_experts_db": 2}
    assert rendering.expert_gains({"both": rendering.Scores()}) == {}


def test_the_lag_of_the_jaw_is_found_despite_gaps():
    driving = np.abs(np.sin(np.arange(80) / 5)).astype(np.float32)
    measured = np.roll(driving, 2)
    measured[10:14] = np.nan
    lag, correlation = best_lag(measured, driving, 5)
    assert lag == 2 and correlation > 0.99
    lag, correlation = best_lag(np.full(80, np.nan), driving, 5)
    assert lag == 0 and np.isnan(correlation)


def test_the_lag_of_sound_is_found_to_the_sample_and_with_inverted_phase():
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    late = np.concatenate([np.zeros(123, np.float32), sound])[:16_000]
    assert sound_lag(late, sound) == 123 and sound_lag(sound, late) == -123
    assert sound_lag(-late, sound, 2400, either_sign=True) == 123
    assert abs(sound_lag(late, sound, 100)) <= 100


def test_talking_portraits_are_summarized_in_figures():
    row = np.zeros((2, 2, 3), np.uint8)
    figures = summary(
        [
            TalkingPortrait("a", 1.0, 0.9, 0, row),
            TalkingPortrait("b", 0.5, np.nan, 0, row),
            TalkingPortrait("c", 0.9, 0.7, -2, row),
        ]
    )
    assert (
        figures["face_found"] == pytest.approx(0.8)
        and figures["jaw_correlation"] == pytest.approx(0.8)
        and figures["jaw_lag_worst"] == 2
    )
    assert summary([]) == {}
