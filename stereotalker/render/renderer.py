"""Stage `render`: turns motion, avatar and camera into frames, segment by segment.

A segment depends on the portrait alone, never on frames of another segment, so segments can be rendered in any order.
T: frames, R: regions, M reference tokens of width D.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from stereotalker.body.model import Body
from stereotalker.control.masks import RegionMasks, one_channel, to_float
from stereotalker.control.reference_warp import Reference, control, reference
from stereotalker.control.warp_kernels import COPIED
from stereotalker.diffusion.sampling import frame_noise, sample
from stereotalker.diffusion.windows import Window
from stereotalker.params import RenderParams
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.render.denoiser import RenderDenoiser, conditions
from stereotalker.runtime.device import autocast, to_channels_last
from stereotalker.smplx_layout import REGION

# Number of avatars whose tables stay in memory, because a worker may get segments of a few clips in turn.
_CACHED_AVATARS = 3
# Width of the border of the warp's reliable colors that the denoiser draws nevertheless, px.
_SEAM_WIDTH = 2
# Regions at whose outlines there may be hair, and the width of the margin around them, px.
_HEAD_REGIONS, _HEAD_RIM = ("hair", "face", "mouth"), 4
# Alpha below which the background cannot be removed from a pixel's color, because the noise would be amplified too
# much.
_MIN_ALPHA = 0.1
# Width of the margin around the head that the denoiser draws as well, px: ends of hair and soft outlines.
_PERSON_MARGIN = 1


class Renderer:
    """Models in memory, ready to render segments of any avatar. It is not thread-safe: each worker has its own."""

    def __init__(
        self, body: Body, masks: RegionMasks, denoiser: RenderDenoiser, params: RenderParams, device: str = "cpu"
    ):
        """device: of the masks and the denoiser. The other models are small and stay on the CPU."""
        self.body, self.params, self.device = body, params, device
        self.masks = to_channels_last(masks.eval(), self.device)
        self.denoiser = to_channels_last(denoiser.eval(), self.device)
        self._prepared: dict[int, tuple[Reference, torch.Tensor]] = {}  # by id of the avatar, least recently used first

    def segment(
        self, avatar: Avatar, motion: Motion, camera: Camera, window: Window, seed: int, alpha: bool = False
    ) -> np.ndarray:
        """Render frames window.start..window.stop-1 of a clip, u8 [T, H, W, 3] sRGB; with alpha [T, H, W, 4], straight.

        motion and camera are those of the whole clip, and so is the seed. Frames are rendered in runs of params.batch
        that lie on a fixed grid over the clip, so that a frame is the same whatever the window is.
        """
        ref, tokens = self._prepare(avatar)
        run, parts = self.params.batch, []
        for start in range(window.start - window.start % run, window.stop, run):
            stop = min(start + run, len(motion.poses))
            maps = control(ref, self.body, motion.frames(start, stop), camera.frames(start, stop))
            in_window = slice(max(window.start - start, 0), window.stop - start)
            parts.append(self.pictures(maps, tokens, seed, start, alpha)[in_window])
        return np.concatenate(parts)

    def _prepare(self, avatar: Avatar) -> tuple[Reference, torch.Tensor]:
        """The reference warp's tables and the reference network's tokens of an avatar, cached for the latest few."""
        entry = self._prepared.pop(id(avatar), None) or (reference(avatar, self.body), self.tokens(avatar.portrait))
        # The entry holds the avatar, so that no other object can get its id while the entry is there.
        self._prepared[id(avatar)] = entry
        while len(self._prepared) > _CACHED_AVATARS:
            del self._prepared[next(iter(self._prepared))]
        return entry

    @torch.inference_mode()
    def tokens(self, portrait: np.ndarray) -> torch.Tensor:
        """Tokens that the reference network makes of a portrait u8 [H, W, 3]: f32 [1, M, D]."""
        with autocast(self.device):
            return self.denoiser.reference(2 * to_float(portrait[None], self.device) - 1).float()

    @torch.inference_mode()
    def pictures(self, maps: Control, tokens: torch.Tensor, seed: int, start: int, alpha: bool = False) -> np.ndarray:
        """Render a run of frames, the first of which is frame `start` of the clip, from their control maps.

        tokens f32 [1, M, D], see `tokens`; seed: the clip's. Returns u8 [T, H, W, 3] sRGB, or [T, H, W, 4] with alpha.
        """
        T, H, W = maps.labels.shape
        region_probs = self.masks.predict(maps)
        bottom, right = -H % self.denoiser.multiple, -W % self.denoiser.multiple

        def padded(x: torch.Tensor) -> torch.Tensor:
            return functional.pad(x, (0, right, 0, bottom), mode="replicate")

        warp, normals, plate = (to_float(m, self.device) for m in (maps.warp, maps.normals, maps.plate))
        visibility = one_channel(maps.visibility, self.device)
        labels = torch.from_numpy(maps.labels).to(self.device)[:, None]
        conditioning = conditions(
            self.denoiser.codec, padded(warp), padded(visibility), padded(normals), padded(plate), padded(region_probs),
            torch.from_numpy(np.stack([maps.azimuth, maps.elevation], 1)).to(self.device), tokens.expand(T, -1, -1), T,
        )  # fmt: skip
        noisy = frame_noise(tuple(conditioning.base.shape[1:]), seed, start, start + T, self.params.noise_period).to(
            self.device
        )
        with autocast(self.device):
            cells = sample(
                lambda x, t: self.denoiser(x, t, conditioning), noisy, self.params.scheduler, self.params.steps
            )
        image = self.denoiser.codec.decode(cells)[..., :H, :W]
        person = person_alpha(region_probs)
        share = warp_share(visibility, labels)
        frames = composite(image, warp, plate, person, share)
        if alpha:
            coverage = one_channel(maps.coverage, self.device)
            frames = cut_out(frames, plate, torch.lerp(person, coverage, share))
        frames = frames.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        return frames.contiguous().cpu().numpy()


def warp_share(visibility: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How much of every pixel is the warp's, f32 [B, 1, H, W] in 0..1.

    The rest is the denoiser's: all that is less reliable than COPIED, and the outlines of the head, because hair is
    finer than the mesh. Elsewhere the mesh's outline is drawn as it is. visibility f32 [B, 1, H, W] in 0..1:
    `Control.visibility` over 255; labels u8 [B, 1, H, W]: `Control.labels`.
    """
    side = 2 * _SEAM_WIDTH + 1
    is_person, is_copied = visibility > 0, visibility * 255 >= COPIED - 0.5
    is_head = torch.isin(labels, torch.tensor([REGION[name] for name in _HEAD_REGIONS], device=labels.device))
    near_head = functional.max_pool2d(is_head.float(), 2 * _HEAD_RIM + 1, 1, _HEAD_RIM) > 0
    is_reliable = (is_person & is_copied) | (~is_person & ~near_head)
    inside = 1 - functional.max_pool2d(1 - is_reliable.float(), side, 1, _SEAM_WIDTH)
    return functional.avg_pool2d(inside, side, 1, _SEAM_WIDTH, count_include_pad=False)


def person_alpha(region_probs: torch.Tensor) -> torch.Tensor:
    """Alpha of the person, widened by _PERSON_MARGIN px, f32 [B, 1, H, W] in 0..1. region_probs f32 [B, R, H, W]."""
    person = 1 - region_probs[:, REGION["background"], None]
    return functional.max_pool2d(person, 2 * _PERSON_MARGIN + 1, 1, _PERSON_MARGIN)


def composite(
    image: torch.Tensor, warp: torch.Tensor, plate: torch.Tensor, person: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Put the denoiser's picture over the background plate by its alpha, and the warp over both by its share.

    image, warp and plate f32 [B, 3, H, W] in 0..1; person f32 [B, 1, H, W]: see `person_alpha`; share f32
    [B, 1, H, W]: see `warp_share`.
    """
    return torch.lerp(torch.lerp(plate, image, person), warp, share)


def cut_out(frames: torch.Tensor, plate: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Cut the person out of frames f32 [B, 3, H, W], with straight alpha f32 [B, 1, H, W]. Returns f32 [B, 4, H, W].

    At soft edges the frames have the plate f32 [B, 3, H, W] mixed in, which is removed from the color here.
    """
    foreground = (frames - (1 - alpha) * plate) / alpha.clamp_min(_MIN_ALPHA)
    return torch.cat([torch.where(alpha > _MIN_ALPHA, foreground, frames), alpha], 1)
