"""How well people are rendered: held-out identities against the truth, by fit, view and region, beside the trivial baselines.

A figure is the mean over frames of the frame's own; regions are the truth's, where they fill at least _FEWEST pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stereotalker.control.masks import region_iou
from stereotalker.control.reference_warp import SEEN, control, reference
from stereotalker.evaluation import image_metrics
from stereotalker.evaluation.talking_portraits import Spoken
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.records import Avatar, Control, Motion
from stereotalker.render.denoiser import RenderDenoiser
from stereotalker.render.renderer import Renderer
from stereotalker.smplx_layout import REGION, REGIONS
from stereotalker.training.samples import Sample

FITS = {
    "exact": 0.0,
    "wrong": 1.0,
}  # size of the fit's errors: betas 0.3 sd, joints 2 degrees, the body driven in its fit's own angles
VIEWS = {"front": (-1.0, 5.0), "20deg": (15.0, 25.0)}  # degrees of azimuth to either side
SYSTEMS = ("copy", "warp", "ours")  # a copy of the portrait; the reference warp over its plate
STEPS = (1, 2, 4, 8, 32)
ASKED_REGIONS = ("hair", "face", "mouth", "hands")  # in which experts of regions are asked to be better
_FEWEST = 10  # px


@dataclass
class Scores:
    """Lists of figures of frames: by (system, measure, fit, view, region)."""

    found: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def add(self, value: float, *key: str) -> None:
        self.found.setdefault(key, []).append(value)

    def mean(self, *key: str | None) -> float:
        """Mean over all frames whose key agrees; None agrees with any. nan where there are none."""
        values = [
            v
            for known, held in self.found.items()
            if all(k is None or k == own for k, own in zip(key, known, strict=True))
            for v in held
        ]
        return float(np.nanmean(values)) if values else np.nan


def examine(renderer: Renderer, crowds: dict[str, list[Sample]], systems: tuple[str, ...] = SYSTEMS) -> Scores:
    """Every frame of every held-out person. crowds: a key of FITS -> samples with that fit."""
    scores = Scores()
    for fit, people in crowds.items():
        for person in people:
            made = {
                "copy": np.broadcast_to(person.portrait, person.image.shape),
                "warp": person.warp,
                "ours": pictures(renderer, person),
            }
            for system in systems:
                _compare(scores, system, fit, person, made[system])
    return scores


def pictures(renderer: Renderer, person: Sample) -> np.ndarray:
    """A sample's frames through masks and denoiser, run by run of each camera, u8 [N, H, W, 3]."""
    tokens, step, out = renderer.tokens(person.portrait), renderer.params.batch, []
    for first in range(0, len(person.image), person.frames):
        for start in range(0, person.frames, step):
            stop = min(start + step, person.frames)
            out.append(
                renderer.pictures(control_of(person, first + start, first + stop), tokens, person.identity, start)
            )
    return np.concatenate(out)


def control_of(person: Sample, start: int = 0, stop: int | None = None) -> Control:
    cut = slice(start, stop)
    azimuth, elevation = np.ascontiguousarray(person.angles[cut].T.astype(np.float32))
    return Control(
        person.warp[cut],
        person.visibility[cut],
        person.normals[cut],
        person.labels[cut],
        person.plate[cut],
        azimuth,
        elevation,
    )


def _compare(scores: Scores, system: str, fit: str, person: Sample, made: np.ndarray) -> None:
    for n, (picture, truth, regions) in enumerate(zip(made, person.image, person.regions, strict=True)):
        view = next((name for name, (low, high) in VIEWS.items() if low <= abs(person.angles[n, 0]) <= high), "other")
        error, alike = image_metrics.squares(picture, truth), image_metrics.ssim(picture, truth)
        for region in ("person", *REGIONS[1:]):
            where = regions != REGION["background"] if region == "person" else regions == REGION[region]
            if where.sum() >= _FEWEST:
                key = (fit, view, region)
                scores.add(image_metrics.psnr(float(error[where].mean())), system, "psnr", *key)
                scores.add(float(alike[where].mean()), system, "ssim", *key)
            if region == "person":
                scores.add(image_metrics.haar(picture, truth, where), system, "haar", fit, view, region)
        if n % person.frames:
            where = (regions != REGION["background"]) | (person.regions[n - 1] != REGION["background"])
            change = [np.abs(p[n].astype(np.float32) - p[n - 1]).mean(-1)[where].mean() for p in (made, person.image)]
            scores.add(float(change[0]), system, "change", fit, view, "person")
            scores.add(float(change[1]), system, "true change", fit, view, "person")


def flicker(scores: Scores, system: str, fit: str, view: str | None) -> float:
    """Mean change from frame to frame on the person over the truth's: 1 is right, more flickers, less is frozen."""
    return scores.mean(system, "change", fit, view, "person") / scores.mean(system, "true change", fit, view, "person")


def figures(scores: Scores) -> dict[str, float]:
    """The figures of metrics/render.json, ours first and the warp's beside them."""
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


def by_steps(renderer: Renderer, people: list[Sample]) -> dict[int, dict[str, float]]:
    """Quality against the number of the denoiser's evaluations, exact fits."""
    table = {}
    for steps in STEPS:
        other = Renderer(
            renderer.body, renderer.masks, renderer.denoiser, renderer.params.model_copy(update={"steps": steps})
        )
        scores = examine(other, {"exact": people}, ("ours",))
        table[steps] = {name: scores.mean("ours", name, "exact", None, "person") for name in ("psnr", "ssim", "haar")}
        table[steps] |= {f"psnr {r}": scores.mean("ours", "psnr", "exact", None, r) for r in ("mouth", "hands")} | {
            "flicker": flicker(scores, "ours", "exact", None)
        }
    return table


def with_denoiser(renderer: Renderer, denoiser: RenderDenoiser) -> Renderer:
    return Renderer(renderer.body, renderer.masks, denoiser, renderer.params)


def with_body_masks(renderer: Renderer) -> Renderer:
    """The same without mask prediction."""
    return Renderer(renderer.body, BodyMasks(renderer.device), renderer.denoiser, renderer.params)


class BodyMasks(nn.Module):
    """In a mask predictor's place: the labels of the body's surface."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def predict(self, control: Control) -> torch.Tensor:
        labels = torch.from_numpy(control.labels).to(self.device).long()
        return functional.one_hot(labels, len(REGIONS)).permute(0, 3, 1, 2).float()


def expert_gains(ablation: dict[str, Scores]) -> dict[str, float]:
    """What either kind of experts adds to the dense model of the same active size where it is meant to: dB, exact fits."""
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

    asked = {"view": ("20deg", ("person",)), "region": (None, ASKED_REGIONS), "both": (None, ("person",))}
    return {f"gain_{kinds}_experts_db": gain(kinds, *where) for kinds, where in asked.items() if kinds in ablation}


def masks_figures(renderer: Renderer, people: list[Sample]) -> dict[str, float]:
    """Intersection over union of the predicted masks with the truth, over all frames, and of the body's own labels as the baseline.

    mean_iou: over all regions, the background among them; outline_f: of the person's outline, within 1 px; flicker: pixels that
    change their region from frame to frame, over the truth's: 1 is right.
    """
    predicted = np.concatenate(
        [renderer.masks.predict(control_of(person)).argmax(1).byte().cpu().numpy() for person in people]
    )
    truth, labels = (np.concatenate([getattr(person, name) for person in people]) for name in ("regions", "labels"))
    follows = np.concatenate([np.arange(len(person.image)) % person.frames > 0 for person in people])[1:]

    def change(regions: np.ndarray) -> float:
        return float((regions[1:] != regions[:-1])[follows].mean())

    table: dict[str, float] = {}
    for found, suffix in ((predicted, ""), (labels, "_body")):
        by_region = _drop_rare(region_iou(found, truth), truth)
        table[f"mean_iou{suffix}"] = float(np.mean(list(by_region.values())))
        table[f"person_mean_iou{suffix}"] = float(np.mean([v for name, v in by_region.items() if name != "background"]))
        table[f"outline_f{suffix}"] = float(
            np.nanmean([image_metrics.boundary_f(f != 0, t != 0, 1.0) for f, t in zip(found, truth, strict=True)])
        )
        table |= {f"{name}_iou{suffix}": value for name, value in by_region.items()}
        table[f"flicker{suffix}"] = change(found) / max(change(truth), 1e-6) if follows.any() else np.nan
    return table


def _drop_rare(table: dict[str, float], truth: np.ndarray) -> dict[str, float]:
    """Without regions that fill less than one pixel in ten thousand: their number would be noise."""
    return {name: value for name, value in table.items() if (truth == REGION[name]).mean() > 1e-4}


def lasting(
    renderer: Renderer, avatar: Avatar, motion: Motion, seconds: float, size: tuple[int, int] = (256, 256)
) -> dict[str, float]:
    """The last `seconds` of a long clip over its first: sharpness of the face, and how its pixels correlate with the portrait's carried there.

    Frames know of the rest of their run only, so that those between need not be made.
    """
    count, run = round(seconds * motion.fps), renderer.params.batch
    view = camera.around(avatar, CameraPath(), len(motion.poses), motion.fps, size)
    ref, tokens = reference(avatar, renderer.body), renderer.tokens(avatar.portrait)
    means = []
    for begin in (0, (len(motion.poses) - count) // run * run):
        sharp, same = [], []
        for start in range(begin, begin + count, run):
            maps = control(ref, renderer.body, motion.frames(start, start + run), view.frames(start, start + run))
            for picture, warp, labels, seen in zip(
                renderer.pictures(maps, tokens, 0, start), maps.warp, maps.labels, maps.visibility, strict=True
            ):
                face = (labels == REGION["face"]) & (seen == SEEN)
                sharp.append(image_metrics.sharpness(picture, face))
                same.append(np.corrcoef(picture[face].ravel(), warp[face].ravel())[0, 1])
        means.append((np.nanmean(sharp), np.nanmean(same)))  # a face may turn away
    return {
        "sharpness_last_over_first": float(means[1][0] / means[0][0]),
        "identity_last_over_first": float(means[1][1] / means[0][1]),
        "identity": float(means[0][1]),
    }


def contact_sheet(renderer: Renderer, people: list[Sample], most: int = 4) -> np.ndarray:
    """Three rows a person, truth, warp and ours, each behind the portrait: two frames of three cameras."""
    rows = []
    for person in people[:most]:
        at = [n for first in range(0, len(person.image), person.frames) for n in (first, first + person.frames - 1)][:6]
        rows += [
            np.concatenate([person.portrait, *frames[at]], 1)
            for frames in (person.image, person.warp, pictures(renderer, person))
        ]
    return np.concatenate(rows)


def report(
    scores: Scores, steps: dict[int, dict[str, float]], masks: dict[str, dict[str, float]], ablation: dict[str, Scores],
    lasted: dict[str, float], spoken: list[Spoken],
) -> str:  # fmt: skip
    """metrics/render.md."""
    regions = ("person", *ASKED_REGIONS, "torso", "arms")
    rows = [
        [f"{system}, {fit} fit, {view}", *(scores.mean(system, "psnr", fit, view, r) for r in regions), *(scores.mean(system, m, fit, view, "person") for m in ("ssim", "haar")), flicker(scores, system, fit, view)]
        for fit in FITS for view in VIEWS for system in SYSTEMS
    ]  # fmt: skip
    parts = [
        "# Rendering, held-out people",
        "PSNR in dB by region; means over frames. Wrong fit: betas 0.3 sd, joints 2 degrees (trunk and hips 0.5), then pulled onto the portrait as every fit is, and driven in its own angles. LPIPS and FID are not measured: their weights would have to be downloaded.",
        _table(["", *regions, "SSIM", "HaarPSI", "flicker"], rows),
    ]
    measures = list(next(iter(steps.values())))
    parts += [
        "## Evaluations a frame (exact fits, all views)",
        _table(["steps", *measures], [[str(k), *found.values()] for k, found in steps.items()]),
    ]
    names = list(masks["exact"])
    parts += [
        "## Masks",
        _table(["", *FITS], [[name, *(masks[fit].get(name, np.nan) for fit in FITS)] for name in names]),
    ]
    columns = [("exact", "front"), ("exact", "20deg"), ("wrong", "front"), ("wrong", "20deg")]
    rows = [
        [name, *(found.mean("ours", "psnr", *key, "person") for key in columns), *(found.mean("ours", "psnr", "exact", None, r) for r in ASKED_REGIONS)]
        for name, found in ablation.items()
    ]  # fmt: skip
    parts += [
        "## Ablation (PSNR, dB)",
        _table(["", *(f"{fit}, {view}" for fit, view in columns), *ASKED_REGIONS], rows),
    ]
    parts += ["## A long clip", _table(["", ""], [[name, value] for name, value in lasted.items()])]
    if spoken:
        parts += [
            "## Portraits",
            _table(
                ["", "face found", "jaw correlation", "lag"],
                [[s.name, s.found, s.correlation, str(s.lag)] for s in spoken],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list]) -> str:
    def cell(v):
        return v if isinstance(v, str) else ("" if not np.isfinite(v) else f"{v:.3f}" if abs(v) < 2 else f"{v:.2f}")

    return "\n".join("| " + " | ".join(cell(v) for v in row) + " |" for row in [head, ["---"] * len(head), *rows])
