"""Stage `render`: motion, avatar and camera in, frames out, segment by segment. Every segment stands on the portrait alone."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from stereotalker.body.model import Body
from stereotalker.control.masks import MaskPredictor, one_channel, to_float
from stereotalker.control.reference_warp import Reference, control, reference
from stereotalker.diffusion.sampling import frame_noise, sample
from stereotalker.diffusion.windows import Window
from stereotalker.params import RenderParams
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.render.denoiser import RenderDenoiser, conditions
from stereotalker.runtime.device import autocast, device
from stereotalker.smplx_layout import REGION

_KEPT = 3  # avatars whose tables stay in memory: segments of a few clips may take turns at a worker
_SEAM = 2  # px at the borders of what the portrait showed that are the denoiser's
_FAINT = 0.1  # alpha below which a pixel tells no colour
_EDGE = 1  # px around the person that are the denoiser's too: hair ends and soft outlines


class Renderer:
    """Models in memory, ready for segments of any avatar. Not thread-safe; one per worker."""

    def __init__(self, body: Body, masks: MaskPredictor, denoiser: RenderDenoiser, params: RenderParams):
        self.body, self.params = body, params
        self.device = device()
        self.masks = masks.eval().to(self.device, memory_format=torch.channels_last)
        self.denoiser = denoiser.eval().to(self.device, memory_format=torch.channels_last)
        self._prepared: dict[int, tuple[Reference, torch.Tensor]] = {}  # the latest last

    def segment(
        self, avatar: Avatar, motion: Motion, camera: Camera, window: Window, seed: int, alpha: bool = False
    ) -> np.ndarray:
        """Frames window.start..window.stop-1 of a clip, u8 [T, H, W, 3] sRGB, or with straight alpha [T, H, W, 4].

        motion and camera are the whole clip's; seed is the clip's. Frames are made in runs of params.batch that lie on a grid over
        the clip, so that a frame is the same whatever the window.
        """
        ref, tokens = self._prepare(avatar)
        run, parts = self.params.batch, []
        for start in range(window.start - window.start % run, window.stop, run):
            stop = min(start + run, len(motion.poses))
            maps = control(ref, self.body, motion.frames(start, stop), camera.frames(start, stop))
            wanted = slice(max(window.start - start, 0), window.stop - start)
            parts.append(self.pictures(maps, tokens, seed, start, alpha)[wanted])
        return np.concatenate(parts)

    def _prepare(self, avatar: Avatar) -> tuple[Reference, torch.Tensor]:
        """The reference warp's tables and the reference network's tokens, once an avatar, of the last _KEPT."""
        known = self._prepared.pop(id(avatar), None) or (reference(avatar, self.body), self.tokens(avatar.portrait))
        self._prepared[id(avatar)] = known  # which holds the avatar, so that nothing else gets its id
        while len(self._prepared) > _KEPT:
            del self._prepared[next(iter(self._prepared))]
        return known

    @torch.inference_mode()
    def tokens(self, portrait: np.ndarray) -> torch.Tensor:
        """What the reference network makes of a portrait u8 [H, W, 3]: f32 [1, M, D]."""
        with autocast(self.device):
            return self.denoiser.reference(2 * to_float(portrait[None], self.device) - 1).float()

    @torch.inference_mode()
    def pictures(self, maps: Control, tokens: torch.Tensor, seed: int, start: int, alpha: bool = False) -> np.ndarray:
        """A run of a clip's frames, from frame `start` on, from their control maps: u8 [T, H, W, 3 or 4]."""
        T, H, W = maps.labels.shape
        shares = self.masks.predict(maps)
        bottom, right = -H % self.denoiser.multiple, -W % self.denoiser.multiple

        def padded(x: torch.Tensor) -> torch.Tensor:
            return functional.pad(x, (0, right, 0, bottom), mode="replicate")

        warp, normals, plate = (to_float(m, self.device) for m in (maps.warp, maps.normals, maps.plate))
        visibility = one_channel(maps.visibility, self.device)
        given = conditions(
            self.denoiser.codec, *(padded(x) for x in (warp, visibility, normals, plate, shares)),
            torch.from_numpy(np.stack([maps.azimuth, maps.elevation], 1)).to(self.device), tokens.expand(T, -1, -1), T,
        )  # fmt: skip
        noisy = frame_noise(tuple(given.base.shape[1:]), seed, start, start + T, self.params.noise_period).to(
            self.device
        )
        with autocast(self.device):
            cells = sample(lambda x, t: self.denoiser(x, t, given), noisy, self.params.scheduler, self.params.steps)
        image = composite_seen_pixels(self.denoiser.codec.decode(cells)[..., :H, :W], warp, visibility)
        frames = cut_out(image, plate, shares) if alpha else composite(image, plate, shares)
        frames = frames.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        return frames.contiguous().cpu().numpy()


def composite_seen_pixels(image: torch.Tensor, warp: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
    """The denoiser's picture, and the warp where the portrait shows all of that surface and _SEAM px around it."""
    side = 2 * _SEAM + 1
    seen = (visibility == 1).float()
    inside = 1 - functional.max_pool2d(1 - seen, side, 1, _SEAM)
    kept = functional.avg_pool2d(inside, side, 1, _SEAM, count_include_pad=False)
    return image + kept * (warp - image)


def composite(image: torch.Tensor, plate: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The picture where the person is and _EDGE px around, the background plate elsewhere; soft by the predicted share of background."""
    person = _person(shares)
    return person * image + (1 - person) * plate


def cut_out(image: torch.Tensor, plate: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The person alone with straight alpha, [B, 4, H, W]: at soft edges the plate, which the picture has mixed in, is taken out again."""
    person = _person(shares)
    pure = (image - (1 - person) * plate) / person.clamp_min(_FAINT)
    return torch.cat([torch.where(person > _FAINT, pure, image), person], 1)


def _person(shares: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(1 - shares[:, REGION["background"], None], 2 * _EDGE + 1, 1, _EDGE)
