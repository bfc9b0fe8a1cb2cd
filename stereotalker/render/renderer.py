"""Stage `render`: motion, avatar and camera in, frames out, segment by segment. Every segment stands on the portrait alone."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from stereotalker.body.layout import REGION, REGIONS
from stereotalker.body.model import Body
from stereotalker.control.masks import MaskPredictor, control_channels, pick, to_float
from stereotalker.control.warp import Reference, control, reference
from stereotalker.diffusion.sample import frame_noise, sample
from stereotalker.diffusion.schedule import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.diffusion.windows import Window
from stereotalker.params import RenderParams
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.render.denoiser import RenderDenoiser, conditions
from stereotalker.training import autocast

# How much an error counts in training, by region: where people look.
_LOSS_WEIGHTS = {"background": 0.15, "hair": 1.0, "face": 3.0, "mouth": 6.0, "torso": 1.0, "arms": 1.5, "hands": 3.0, "legs": 1.0}


class Renderer:
    """Models in memory, ready for segments of any avatar. Not thread-safe; one per worker."""

    def __init__(self, body: Body, masks: MaskPredictor, denoiser: RenderDenoiser, params: RenderParams):
        self.body, self.params = body, params
        self.masks = masks.eval().to(memory_format=torch.channels_last)
        self.denoiser = denoiser.eval().to(memory_format=torch.channels_last)
        self._prepared: dict[str, tuple[Reference, torch.Tensor]] = {}

    def segment(self, avatar: Avatar, motion: Motion, camera: Camera, window: Window, seed: int, alpha: bool = False) -> np.ndarray:
        """Frames window.start..window.stop-1 of a clip, u8 [T, H, W, 3] sRGB, or with straight alpha [T, H, W, 4].

        motion and camera are the whole clip's; seed is the clip's.
        """
        ref, tokens = self._prepare(avatar)
        parts = []
        for start in range(window.start, window.stop, self.params.batch):
            stop = min(start + self.params.batch, window.stop)
            maps = control(ref, self.body, motion.frames(start, stop), camera.frames(start, stop))
            parts.append(self.pictures(maps, tokens, seed, start, stop, alpha))
        return np.concatenate(parts)

    def _prepare(self, avatar: Avatar) -> tuple[Reference, torch.Tensor]:
        """The reference warp's tables and the reference network's tokens, once an avatar."""
        if avatar.name not in self._prepared or self._prepared[avatar.name][0].avatar is not avatar:
            self._prepared = {avatar.name: (reference(avatar, self.body), self.tokens(avatar.portrait))}
        return self._prepared[avatar.name]

    @torch.inference_mode()
    def tokens(self, portrait: np.ndarray) -> torch.Tensor:
        """What the reference network makes of a portrait u8 [H, W, 3]: f32 [1, M, D]."""
        with autocast():
            return self.denoiser.reference(2 * to_float(portrait[None]) - 1).float()

    @torch.inference_mode()
    def pictures(self, maps: Control, tokens: torch.Tensor, seed: int, start: int, stop: int, alpha: bool = False) -> np.ndarray:
        """Frames start..stop-1 of a clip from their control maps, u8 [T, H, W, 3 or 4]."""
        T, H, W = maps.labels.shape
        shares = self.masks.predict(maps)
        multiple = self.params.patch * 2 ** (len(self.params.channels) - 1)
        bottom, right = -H % multiple, -W % multiple

        def padded(x: torch.Tensor) -> torch.Tensor:
            return functional.pad(x, (0, right, 0, bottom), mode="replicate")

        plate = to_float(maps.plate)
        given = conditions(
            *(padded(x) for x in (to_float(maps.warp), _channel(maps.visibility), to_float(maps.normals), plate, shares)),
            torch.from_numpy(np.stack([maps.azimuth, maps.elevation], 1)), tokens.expand(T, -1, -1), self.params.patch,
        )  # fmt: skip
        noisy = frame_noise(tuple(given.base.shape[1:]), seed, start, stop, self.params.noise_period)
        with autocast():
            cells = sample(lambda x, t: self.denoiser(x, t, given), noisy, self.params.scheduler, self.params.steps)
        image = functional.pixel_shuffle(cells.float(), self.params.patch)[..., :H, :W] / 2 + 0.5
        person = 1 - shares[:, REGION["background"], None]
        frames = torch.cat([image, person], 1) if alpha else composite(image, plate, shares)
        frames = frames.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        return frames.contiguous().numpy()


def composite(image: torch.Tensor, plate: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The picture where the person is, the background plate elsewhere; soft by the predicted share of background."""
    person = 1 - shares[:, REGION["background"], None]
    return person * image + (1 - person) * plate


def training_loss(model: RenderDenoiser, masks: MaskPredictor, people: list, params: RenderParams):
    """Weighted L1 of the predicted clean picture, at a random noise level, half of the time at pure noise."""
    schedule = make_scheduler(params.scheduler)
    weights = torch.tensor([_LOSS_WEIGHTS[name] for name in REGIONS])

    def loss(rng: np.random.Generator) -> torch.Tensor:
        picks = [pick(people, rng) for _ in range(params.training.batch)]
        image, given, plate, shares, truth_regions = _batch(model, masks, picks, params.patch)
        clean = functional.pixel_unshuffle(2 * image - 1, params.patch)
        t = rng.integers(0, TRAIN_TIMESTEPS, len(picks))
        t = torch.from_numpy(np.where(rng.random(len(picks)) < 0.5, TRAIN_TIMESTEPS - 1, t))
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        with autocast():
            cells = model(schedule.add_noise(clean, noise, t), t, given)
        predicted = composite(functional.pixel_shuffle(cells, params.patch) / 2 + 0.5, plate, shares)
        weight = weights[truth_regions][:, None]
        sharp = _gradients(predicted - image).mul(weight).mean()
        return 4 * ((predicted - image).abs() * weight).mean() + 2 * sharp

    return loss


def _batch(model: RenderDenoiser, masks: MaskPredictor, picks: list, patch: int):
    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(person, name)[n] for person, n in picks])

    maps = {name: stacked(name) for name in ("labels", "warp", "visibility", "normals", "plate")}
    with torch.no_grad(), autocast():
        shares = masks(control_channels(**maps)).float().softmax(1)
    plate = to_float(maps["plate"])
    portraits = torch.from_numpy(np.stack([person.portrait for person, _ in picks])).permute(0, 3, 1, 2).float() / 127.5 - 1
    with autocast():
        tokens = model.reference(portraits)
    given = conditions(
        to_float(maps["warp"]), _channel(maps["visibility"]), to_float(maps["normals"]), plate, shares,
        torch.from_numpy(stacked("angles")), tokens.float(), patch,
    )  # fmt: skip
    return to_float(stacked("image")), given, plate, shares, torch.from_numpy(stacked("regions")).long()


def _channel(mask: np.ndarray) -> torch.Tensor:
    """u8 [B, H, W] -> f32 [B, 1, H, W] in 0..1."""
    return torch.from_numpy(mask)[:, None].float() / 255


def _gradients(x: torch.Tensor) -> torch.Tensor:
    """Absolute differences to the right and lower neighbour, summed; the shape is kept."""
    right = functional.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1))
    lower = functional.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1))
    return right + lower

