"""Render quality on held-out identities against the truth, by fit, view and region, beside the trivial baselines.

A figure is the mean over frames of each frame's own value. Regions are the true ones; a region counts in a frame where
it fills at least _MIN_REGION_PIXELS. N frames of H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from stereotalker.control.masks import RegionMasks, region_iou
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.warp_kernels import SEEN
from stereotalker.diffusion.windows import Window
from stereotalker.evaluation import image_metrics
from stereotalker.evaluation.talking_portraits import TalkingPortrait
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.contact_sheet import grid
from stereotalker.records import Avatar, Control, Motion
from stereotalker.render.denoiser import RenderDenoiser
from stereotalker.render.renderer import Renderer
from stereotalker.smplx_layout import REGION, REGIONS
from stereotalker.training.samples import Sample

# Size of the errors of the body fit. At 1.0: betas 0.3 standard deviations, joints 2 degrees, and the body is driven in
# the angles of its own wrong fit.
FITS = {"exact": 0.0, "wrong": 1.0}
VIEWS = {"front": (-1.0, 5.0), "20deg": (15.0, 25.0)}  # range of the absolute azimuth, degrees
SYSTEMS = ("copy", "warp", "ours")  # a copy of the portrait; the reference warp over its plate; our renderer
STEPS = (1, 2, 4, 8, 32)  # numbers of denoiser evaluations that are compared
REGION_EXPERT_REGIONS = (
    "hair",
    "face",
    "mouth",
    "hands",
)  # regions in which the region experts are expected to be better
# Name of what the portrait does not show of the person, which is measured like a region.
UNSEEN = "unseen"
_MIN_REGION_PIXELS = 10  # pixels below which a region's figure in a frame would be noise


@dataclass
class Scores:
    """Per-frame values by the key (system, measure, fit, view, region)."""

    values: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def add(self, value: float, *key: str) -> None:
        """Append one frame's value."""
        self.values.setdefault(key, []).append(value)

    def mean(self, *key: str | None) -> float:
        """Mean over all frames whose key matches, where None matches anything; nan where no frame matches."""
        values = [
            v
            for stored_key, frame_values in self.values.items()
            if all(wanted is None or wanted == part for wanted, part in zip(key, stored_key, strict=True))
            for v in frame_values
        ]
        return float(np.nanmean(values)) if values else np.nan


def score_renderer(
    renderer: Renderer, samples_by_fit: dict[str, list[Sample]], systems: tuple[str, ...] = SYSTEMS
) -> Scores:
    """Score every frame of every held-out sample. samples_by_fit: a key of FITS -> samples with that fit."""
    scores = Scores()
    for fit, samples in samples_by_fit.items():
        for sample in samples:
            pictures_by_system = {
                "copy": np.broadcast_to(sample.portrait, sample.image.shape),
                "warp": sample.warp,
                "ours": pictures(renderer, sample),
            }
            for system in systems:
                _score_sample(scores, system, fit, sample, pictures_by_system[system])
    return scores


def pictures(renderer: Renderer, person: Sample) -> np.ndarray:
    """Render a sample's frames with mask predictor and denoiser, camera by camera in batches, u8 [N, H, W, 3]."""
    tokens, out = renderer.tokens(person.portrait), []
    for first in range(0, len(person.image), person.frames):

        def maps(start: int, stop: int, first: int = first) -> Control:
            return control_of(person, first + start, first + stop)

        whole = Window(0, 0, person.frames, 0)
        out += [frames for frames, _ in renderer.runs(maps, tokens, whole, person.frames, person.identity)]
    return np.concatenate(out)


def control_of(person: Sample, start: int = 0, stop: int | None = None) -> Control:
    """Control maps of a sample's frames start..stop-1."""
    frames = slice(start, stop)
    azimuth, elevation = np.ascontiguousarray(person.angles[frames].T.astype(np.float32))
    return Control(
        person.warp[frames],
        person.visibility[frames],
        person.normals[frames],
        person.labels[frames],
        person.plate[frames],
        np.where(person.visibility[frames] > 0, np.uint8(255), np.uint8(0)),
        azimuth,
        elevation,
    )


def _score_sample(scores: Scores, system: str, fit: str, sample: Sample, rendered: np.ndarray) -> None:
    """Add the values of all frames `rendered` u8 [N, H, W, 3] of one sample."""
    for n, (picture, truth, regions) in enumerate(zip(rendered, sample.image, sample.regions, strict=True)):
        view = next((name for name, (low, high) in VIEWS.items() if low <= abs(sample.angles[n, 0]) <= high), "other")
        error, similarity = image_metrics.squares(picture, truth), image_metrics.ssim(picture, truth)
        is_person = regions != REGION["background"]
        where_by_region = {"person": is_person, UNSEEN: is_person & (sample.visibility[n] < SEEN)}
        where_by_region |= {name: regions == REGION[name] for name in REGIONS[1:]}
        for region, where in where_by_region.items():
            if where.sum() >= _MIN_REGION_PIXELS:
                key = (fit, view, region)
                scores.add(image_metrics.psnr(float(error[where].mean())), system, "psnr", *key)
                scores.add(float(similarity[where].mean()), system, "ssim", *key)
            if region == "person":
                scores.add(image_metrics.haar_psi(picture, truth, where), system, "haar", fit, view, region)
            if region == UNSEEN and where.any():
                for measure, shown in (("detail", picture), ("true detail", truth)):
                    energy = image_metrics.fine_detail(shown)[where]
                    scores.add(float(energy.mean()), system, measure, fit, view, region)
        if n % sample.frames:
            where = is_person | (sample.regions[n - 1] != REGION["background"])
            change = [
                np.abs(p[n].astype(np.float32) - p[n - 1]).mean(-1)[where].mean() for p in (rendered, sample.image)
            ]
            scores.add(float(change[0]), system, "change", fit, view, "person")
            scores.add(float(change[1]), system, "true change", fit, view, "person")


def flicker(scores: Scores, system: str, fit: str, view: str | None) -> float:
    """Mean change of the person from frame to frame over the true change.

    1 is right; a larger value means flicker, a smaller one a frozen picture.
    """
    return scores.mean(system, "change", fit, view, "person") / scores.mean(system, "true change", fit, view, "person")


def unseen_summary(scores: Scores, prefix: str) -> dict[str, float]:
    """Gain over the warp on pixels that the portrait does not show, dB, and energy of fine detail over the truth's."""
    ours, warp = (scores.mean(system, "psnr", None, None, UNSEEN) for system in ("ours", "warp"))
    detail, true_detail = (scores.mean("ours", measure, None, None, UNSEEN) for measure in ("detail", "true detail"))
    return {f"{prefix}_gain_db": ours - warp, f"{prefix}_sharpness": detail / true_detail}


def summary(scores: Scores) -> dict[str, float]:
    """The keys of metrics/render.json that come from held-out people: our renderer, with the warp beside it."""
    table: dict[str, float] = {}
    for view in VIEWS:
        for fit, suffix in (("exact", ""), ("wrong", "_wrong_fit")):
            ours, warp = (scores.mean(system, "psnr", fit, view, "person") for system in ("ours", "warp"))
            table |= {
                f"psnr_{view}{suffix}": ours,
                f"psnr_{view}{suffix}_warp": warp,
                f"gain_{view}{suffix}_db": ours - warp,
            }
    for region in ("mouth", "hands", "face", "hair"):
        for system, suffix in (("ours", ""), ("warp", "_warp")):
            table[f"psnr_{region}{suffix}"] = scores.mean(system, "psnr", "exact", "front", region)
    table |= {
        "psnr_copy": scores.mean("copy", "psnr", "exact", "front", "person"),
        "flicker_ratio": flicker(scores, "ours", "exact", None),
    }
    table["gain_over_warp_db"] = scores.mean("ours", "psnr", None, None, "person") - scores.mean(
        "warp", "psnr", None, None, "person"
    )
    return table | {f"{name}_front": scores.mean("ours", name, "exact", "front", "person") for name in ("ssim", "haar")}


def scores_by_steps(renderer: Renderer, samples: list[Sample]) -> dict[int, dict[str, float]]:
    """Quality of exact fits for each number of denoiser evaluations in STEPS."""
    table = {}
    for steps in STEPS:
        other = Renderer(
            renderer.body,
            renderer.masks,
            renderer.denoiser,
            renderer.params.model_copy(update={"steps": steps}),
            renderer.device,
        )
        scores = score_renderer(other, {"exact": samples}, ("ours",))
        table[steps] = {name: scores.mean("ours", name, "exact", None, "person") for name in ("psnr", "ssim", "haar")}
        table[steps] |= {f"psnr {r}": scores.mean("ours", "psnr", "exact", None, r) for r in ("mouth", "hands")} | {
            "flicker": flicker(scores, "ours", "exact", None)
        }
    return table


def with_denoiser(renderer: Renderer, denoiser: RenderDenoiser) -> Renderer:
    """The same renderer with another denoiser."""
    return Renderer(renderer.body, renderer.masks, denoiser, renderer.params, renderer.device)


def with_body_masks(renderer: Renderer) -> Renderer:
    """The same renderer without mask prediction."""
    return Renderer(renderer.body, BodyMasks(renderer.device), renderer.denoiser, renderer.params, renderer.device)


class BodyMasks(RegionMasks):
    """Takes the place of a mask predictor: its masks are the region labels of the body's surface."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def predict(self, control: Control, is_inner: torch.Tensor | None = None) -> torch.Tensor:
        """One-hot masks f32 [T, regions, H, W], whatever `is_inner` says."""
        labels = torch.from_numpy(control.labels).to(self.device).long()
        return functional.one_hot(labels, len(REGIONS)).permute(0, 3, 1, 2).float()


def expert_gains(ablation: dict[str, Scores]) -> dict[str, float]:
    """Gain in dB of each kind of experts over the dense model of the same active size, for exact fits.

    Each kind is measured where it is meant to help: view experts at 20 degrees, region experts in
    REGION_EXPERT_REGIONS. ablation: kind of experts -> scores. Without the key "none" (the dense model) the result is
    empty.
    """
    if "none" not in ablation:
        return {}

    def gain(kinds: str, view: str | None, regions: tuple[str, ...]) -> float:
        return float(
            np.nanmean(
                [
                    ablation[kinds].mean("ours", "psnr", "exact", view, r)
                    - ablation["none"].mean("ours", "psnr", "exact", view, r)
                    for r in regions
                ]
            )
        )

    conditions = {"view": ("20deg", ("person",)), "region": (None, REGION_EXPERT_REGIONS), "both": (None, ("person",))}
    return {f"gain_{kinds}_experts_db": gain(kinds, *where) for kinds, where in conditions.items() if kinds in ablation}


def mask_summary(renderer: Renderer, samples: list[Sample]) -> dict[str, float]:
    """The keys of metrics/masks.json: predicted masks against the truth; with the suffix _body, the body's own labels.

    NAME_iou: intersection over union of a region, over all frames; mean_iou: over all regions with the background;
    person_mean_iou: without it. outline_f: boundary F measure of the person's outline, within 1 px. flicker: share of
    pixels that change their region from frame to frame, over the true share; 1 is right.
    """
    predicted = np.concatenate(
        [renderer.masks.predict(control_of(sample)).argmax(1).byte().cpu().numpy() for sample in samples]
    )
    truth, labels = (np.concatenate([getattr(sample, name) for sample in samples]) for name in ("regions", "labels"))
    # Whether frame n + 1 follows frame n in the same camera of the same sample.
    has_predecessor = np.concatenate([np.arange(len(sample.image)) % sample.frames > 0 for sample in samples])[1:]

    def change(regions: np.ndarray) -> float:
        return float((regions[1:] != regions[:-1])[has_predecessor].mean())

    table: dict[str, float] = {}
    for regions, suffix in ((predicted, ""), (labels, "_body")):
        by_region = _drop_rare(region_iou(regions, truth), truth)
        table[f"mean_iou{suffix}"] = float(np.mean(list(by_region.values())))
        table[f"person_mean_iou{suffix}"] = float(np.mean([v for name, v in by_region.items() if name != "background"]))
        table[f"outline_f{suffix}"] = float(
            np.nanmean([image_metrics.boundary_f(r != 0, t != 0, 1.0) for r, t in zip(regions, truth, strict=True)])
        )
        table |= {f"{name}_iou{suffix}": value for name, value in by_region.items()}
        table[f"flicker{suffix}"] = change(regions) / max(change(truth), 1e-6) if has_predecessor.any() else np.nan
    return table


def _drop_rare(table: dict[str, float], truth: np.ndarray) -> dict[str, float]:
    """Drop regions that fill less than one pixel in ten thousand, because their figures would be noise."""
    return {name: value for name, value in table.items() if (truth == REGION[name]).mean() > 1e-4}


def long_clip_stability(
    renderer: Renderer, avatar: Avatar, motion: Motion, seconds: float, size: tuple[int, int] = (256, 256)
) -> dict[str, float]:
    """Compare the last `seconds` of a long clip with its first: sharpness of the face, and identity.

    Identity is the correlation of the face's pixels with the portrait's, warped to the same place; only pixels that the
    portrait shows count. Frames depend on no frame of another segment, so those in between need not be rendered.
    """
    count, batch = round(seconds * motion.fps), renderer.params.batch
    view = camera.avatar_camera(avatar, CameraPath(), len(motion.poses), motion.fps, size)
    ref, tokens = reference(avatar, renderer.body), renderer.tokens(avatar.portrait)

    def maps_of(start: int, stop: int) -> Control:
        return control(ref, renderer.body, motion.frames(start, stop), view.frames(start, stop))

    means = []
    for begin in (0, (len(motion.poses) - count) // batch * batch):
        sharpness, identity = [], []
        window = Window(0, begin, begin + count, 0)
        for frames, maps in renderer.runs(maps_of, tokens, window, len(motion.poses), 0):
            for picture, warp, labels, visibility in zip(frames, maps.warp, maps.labels, maps.visibility, strict=True):
                face = (labels == REGION["face"]) & (visibility == SEEN)
                sharpness.append(image_metrics.sharpness(picture, face))
                identity.append(np.corrcoef(picture[face].ravel(), warp[face].ravel())[0, 1])
        # A frame in which the face is turned away has nan.
        means.append((np.nanmean(sharpness), np.nanmean(identity)))
    return {
        "sharpness_last_over_first": float(means[1][0] / means[0][0]),
        "identity_last_over_first": float(means[1][1] / means[0][1]),
        "identity": float(means[0][1]),
    }


def contact_sheet(renderer: Renderer, samples: list[Sample], most: int = 4) -> np.ndarray:
    """Three rows per sample (truth, warp, ours): the portrait, then two frames of each of three cameras."""
    rows = []
    for sample in samples[:most]:
        shown = [n for first in range(0, len(sample.image), sample.frames) for n in (first, first + sample.frames - 1)][
            :6
        ]
        rows += [
            [sample.portrait, *frames[shown]] for frames in (sample.image, sample.warp, pictures(renderer, sample))
        ]
    return grid(rows)


def report(
    scores: Scores,
    steps: dict[int, dict[str, float]],
    masks: dict[str, dict[str, float]],
    ablation: dict[str, Scores],
    stability: dict[str, float],
    spoken: list[TalkingPortrait],
) -> str:
    """The text of metrics/render.md. masks: fit -> `mask_summary`; ablation: kind of experts -> scores."""
    regions = ("person", *REGION_EXPERT_REGIONS, "torso", "arms")
    rows = [
        [
            f"{system}, {fit} fit, {view}",
            *(scores.mean(system, "psnr", fit, view, r) for r in regions),
            *(scores.mean(system, m, fit, view, "person") for m in ("ssim", "haar")),
            flicker(scores, system, fit, view),
        ]
        for fit in FITS
        for view in VIEWS
        for system in SYSTEMS
    ]
    parts = [
        "# Rendering, held-out people",
        "PSNR in dB by region; means over frames. Wrong fit: betas 0.3 sd, joints 2 degrees (trunk and hips 0.5), then "
        "pulled onto the portrait as every fit is, and driven in its own angles. LPIPS and FID are not measured: their "
        "weights would have to be downloaded.",
        _table(["", *regions, "SSIM", "HaarPSI", "flicker"], rows),
    ]
    measures = list(next(iter(steps.values())))
    parts += [
        "## Denoiser evaluations per frame (exact fits, all views)",
        _table(["steps", *measures], [[str(k), *values.values()] for k, values in steps.items()]),
    ]
    names = list(masks["exact"])
    parts += [
        "## Masks",
        _table(["", *FITS], [[name, *(masks[fit].get(name, np.nan) for fit in FITS)] for name in names]),
    ]
    columns = [("exact", "front"), ("exact", "20deg"), ("wrong", "front"), ("wrong", "20deg")]
    rows = [
        [
            name,
            *(expert_scores.mean("ours", "psnr", *key, "person") for key in columns),
            *(expert_scores.mean("ours", "psnr", "exact", None, r) for r in REGION_EXPERT_REGIONS),
        ]
        for name, expert_scores in ablation.items()
    ]
    parts += [
        "## Ablation (PSNR, dB)",
        _table(["", *(f"{fit}, {view}" for fit, view in columns), *REGION_EXPERT_REGIONS], rows),
    ]
    parts += ["## A long clip", _table(["", ""], [[name, value] for name, value in stability.items()])]
    if spoken:
        parts += [
            "## Portraits",
            _table(
                ["", "face found", "jaw correlation", "lag"],
                [[s.name, s.face_share, s.correlation, str(s.lag)] for s in spoken],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list]) -> str:
    """A Markdown table; cells are strings or numbers, nan leaves its cell empty."""

    def cell(v):
        return v if isinstance(v, str) else ("" if not np.isfinite(v) else f"{v:.3f}" if abs(v) < 2 else f"{v:.2f}")

    return "\n".join("| " + " | ".join(cell(v) for v in row) + " |" for row in [head, ["---"] * len(head), *rows])
