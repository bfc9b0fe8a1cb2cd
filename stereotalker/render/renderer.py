"""Stage `render`: turns motion, avatar and camera into frames, segment by segment.

A segment depends on the portrait and on its own first run alone, never on frames of another segment, so segments can be
rendered in any order.
T: frames, R: regions, M reference tokens of width D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from stereotalker.body.model import Body
from stereotalker.control.filters import max_filter, mean_filter
from stereotalker.control.masks import RegionMasks, inner_body, one_channel, to_float
from stereotalker.control.mipmaps import shows_more
from stereotalker.control.reference_warp import Reference, control, reference
from stereotalker.control.warp_kernels import COPIED
from stereotalker.diffusion.sampling import frame_noise, sample
from stereotalker.diffusion.windows import Window
from stereotalker.params import RenderParams
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.render.areas import Area, cover
from stereotalker.render.cut_out import cut_out
from stereotalker.render.denoiser import RenderDenoiser, conditions, use_plain_attention
from stereotalker.render.norms import Norms, Statistics
from stereotalker.render.reduced import enlarge, network_size, reduce_maps, reduce_mask
from stereotalker.runtime.device import autocast, inference_copy
from stereotalker.smplx_layout import REGION

# Number of avatars whose tables stay in memory, because a worker may get segments of a few clips in turn.
_CACHED_AVATARS = 3
# Width of the border of the warp's reliable colors that the denoiser draws nevertheless, px.
_SEAM_WIDTH = 2
# Regions at whose outlines there may be hair, and the width of the margin around them, px.
_HEAD_REGIONS, _HEAD_RIM = ("hair", "face", "mouth"), 4
# Width of the margin around the head that the denoiser draws as well, px: ends of hair and soft outlines.
_PERSON_MARGIN = 1


class Drawn(NamedTuple):
    """What the networks made of frames of H x W px in a picture of h x w px, which is smaller for large frames."""

    picture: torch.Tensor  # f32 [T, 3, h, w] in 0..1, the denoiser's
    person: torch.Tensor  # f32 [T, 1, h, w] in 0..1, see `person_alpha`
    share: torch.Tensor  # f32 [T, 1, H, W] in 0..1, see `warp_share`
    reduced_warp: np.ndarray  # u8 [T, h, w, 3], the warp that the networks saw


class Renderer:
    """Models in memory, ready to render segments of any avatar. It is not thread-safe: each worker has its own.

    The networks work on the parts of a picture in which the denoiser's picture is used, see `warp_share`. The rest is
    the warp. Only the first run of a segment is worked on as a whole, to get the statistics by which the parts are
    normalized.
    """

    def __init__(
        self, body: Body, masks: RegionMasks, denoiser: RenderDenoiser, params: RenderParams, device: str = "cpu"
    ):
        """masks and denoiser are copied. device: of both. The other models are small and stay on the CPU."""
        self.body, self.params, self.device = body, params, device
        self.masks, self.denoiser = inference_copy(masks, device), inference_copy(denoiser, device)
        if device == "cpu" and params.pretrained is None:
            use_plain_attention(self.denoiser)
        self._norms = Norms(self.masks, self.denoiser.net)
        # By id of the avatar, and whether with its photo; least recently used first.
        self._prepared: dict[tuple[int, bool], tuple[Reference, torch.Tensor, Avatar]] = {}

    def segment(
        self, avatar: Avatar, motion: Motion, camera: Camera, window: Window, seed: int, alpha: bool = False
    ) -> np.ndarray:
        """Render frames window.start..window.stop-1 of a clip, u8 [T, H, W, 3] sRGB; with alpha [T, H, W, 4], straight.

        motion and camera are those of the whole clip, and so is the seed.
        """
        ref, tokens = self._prepare(avatar, shows_more(avatar, camera))

        def maps(start: int, stop: int) -> Control:
            """The control maps of frames start..stop-1."""
            return control(ref, self.body, motion.frames(start, stop), camera.frames(start, stop))

        count = min(window.stop, len(motion.poses)) - window.start
        result, done = np.empty((count, *camera.size, 4 if alpha else 3), np.uint8), 0
        for finished in self.runs(maps, tokens, window, len(motion.poses), seed, alpha):
            frames = finished[0]
            result[done : done + len(frames)], done = frames, done + len(frames)
            del finished  # its control maps would stay in memory while those of the next run are made
        return result

    def runs(
        self,
        maps: Callable[[int, int], Control],
        tokens: torch.Tensor,
        window: Window,
        count: int,
        seed: int,
        alpha: bool = False,
    ) -> Iterator[tuple[np.ndarray, Control]]:
        """Render frames window.start..window.stop-1 of a clip of `count` frames, in runs of at most params.batch.

        Runs lie on a fixed grid over the clip, and so do the segments whose first run gives the statistics, so that a
        frame is the same whatever the window is. maps(start, stop): the control maps of frames start..stop-1; tokens
        f32 [1, M, D], see `tokens`; seed: the clip's. Yields the frames of every run, u8 [_, H, W, 3] sRGB, or
        [_, H, W, 4] with alpha, and their control maps.
        """
        run = self.params.batch
        segment = max(self.params.segment // run, 1) * run
        is_local = self.denoiser.codec.is_local
        statistics: Statistics = {}
        for start in range(window.start - window.start % run, window.stop, run):
            first = start - start % segment
            if not is_local:
                run_maps = maps(start, min(start + run, count))
                frames = self._pictures(run_maps, tokens, seed, start, alpha, are_whole=True)
            elif start == first or not statistics:
                run_maps = maps(first, min(first + run, count))
                with self._norms.record() as statistics:
                    frames = self._pictures(run_maps, tokens, seed, first, alpha, are_whole=True)
            if is_local and start != first:
                run_maps = maps(start, min(start + run, count))
                with self._norms.use(statistics):
                    frames = self._pictures(run_maps, tokens, seed, start, alpha, are_whole=False)
            wanted = max(window.start - start, 0), min(window.stop, count) - start
            run_maps = run_maps.frames(*wanted)
            yield frames[slice(*wanted)], run_maps
            del run_maps

    def _prepare(self, avatar: Avatar, with_photo: bool) -> tuple[Reference, torch.Tensor]:
        """The reference warp's tables and the reference network's tokens of an avatar, cached for the latest few.

        with_photo: whether frames need the photo's detail, which takes memory.
        """
        key = id(avatar), with_photo
        entry = self._prepared.pop(key, None)
        if entry is None:
            used = avatar if with_photo else replace(avatar, photo=None)
            entry = reference(used, self.body), self.tokens(avatar.portrait), avatar
        # The entry holds the avatar, so that no other object can get its id while the entry is there.
        self._prepared[key] = entry
        while len(self._prepared) > _CACHED_AVATARS:
            del self._prepared[next(iter(self._prepared))]
        return entry[:2]

    @torch.inference_mode()
    def tokens(self, portrait: np.ndarray) -> torch.Tensor:
        """Tokens that the reference network makes of a portrait u8 [H, W, 3]: f32 [1, M, D]."""
        with autocast(self.device):
            return self.denoiser.reference(2 * to_float(portrait[None], self.device) - 1).float()

    @torch.inference_mode()
    def _pictures(
        self, maps: Control, tokens: torch.Tensor, seed: int, start: int, alpha: bool, are_whole: bool
    ) -> np.ndarray:
        """Render a run of frames, the first of which is frame `start` of the clip; arguments and result as of `runs`.

        are_whole: the networks work on the whole pictures.
        """
        T, H, W = maps.labels.shape
        small = network_size((H, W), self.params.network_side)
        reduced = reduce_maps(maps, small)
        # Large frames are worked on one by one outside of the networks, which takes less memory.
        step = T if small == (H, W) else 1
        chunks = [slice(t, t + step) for t in range(0, T, step)]
        share = torch.cat([self._share(maps.frames(t.start, t.stop), max(H, W) / max(small)) for t in chunks])
        if are_whole:
            everything = Area(0, small[0], 0, small[1])
            areas = [(everything, everything)]
        else:
            is_painted = (share < 1).amax((0, 1)).cpu().numpy()
            multiple = math.lcm(self.denoiser.multiple, self.masks.multiple)
            areas = cover(reduce_mask(is_painted, small), multiple)
        picture, person = self._paint(reduced, areas, tokens, seed, start)
        targets = [area.scaled(small, (H, W)) for area, _ in areas]
        finished = []
        for t in chunks:
            drawn = Drawn(picture[t], person[t], share[t], reduced.warp[t])
            finished.append(self._finish(maps.frames(t.start, t.stop), drawn, targets, alpha))
        return np.concatenate(finished)

    def _share(self, maps: Control, scale: float) -> torch.Tensor:
        """`warp_share` of some frames."""
        labels = torch.from_numpy(maps.labels).to(self.device)[:, None]
        return warp_share(one_channel(maps.visibility, self.device), labels, scale)

    def _paint(
        self, maps: Control, areas: list[tuple[Area, Area]], tokens: torch.Tensor, seed: int, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The denoiser's pictures of a run of frames, f32 [T, 3, h, w] in 0..1, and the person's alpha in them.

        Outside of the areas, see `cover`, they are the warp and 0. The alpha, f32 [T, 1, h, w], is that of
        `person_alpha`.
        """
        T, H, W = maps.labels.shape
        factor, multiple = self.denoiser.codec.factor, self.denoiser.multiple
        grid = [-(-side // multiple) * multiple // factor for side in (H, W)]
        noise = frame_noise((self.denoiser.codec.channels, *grid), seed, start, start + T, self.params.noise_period)
        is_inner = inner_body(maps.labels, self.device)
        picture = to_float(maps.warp, self.device).contiguous()
        person = picture.new_zeros(T, 1, H, W)
        for area, context in areas:
            inside = area.within(context)
            cells = noise[..., context.top // factor :, context.left // factor :]
            part = self._paint_part(maps.part(*context.slices), is_inner[:, *context.slices], tokens, cells)
            for canvas, drawn in zip((picture, person), part, strict=True):
                canvas[..., *area.slices] = drawn[..., *inside.slices]
        return picture, person

    def _paint_part(
        self, maps: Control, is_inner: torch.Tensor, tokens: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `_paint` returns, of a part of the frames.

        maps and is_inner: of the part, see `RegionMasks.predict`; noise f32 [T, C, _, _]: the part's is at its upper
        left.
        """
        T, H, W = maps.labels.shape
        codec = self.denoiser.codec
        region_probs = self.masks.predict(maps, is_inner)
        bottom, right = -H % self.denoiser.multiple, -W % self.denoiser.multiple

        def padded(x: torch.Tensor) -> torch.Tensor:
            return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

        conditioning = conditions(
            codec,
            padded(to_float(maps.warp, self.device)),
            padded(one_channel(maps.visibility, self.device)),
            padded(to_float(maps.normals, self.device)),
            padded(to_float(maps.plate, self.device)),
            padded(region_probs),
            torch.from_numpy(np.stack([maps.azimuth, maps.elevation], 1)).to(self.device),
            tokens.expand(T, -1, -1),
            T,
        )
        h, w = conditioning.base.shape[2:]
        noisy = noise[..., :h, :w].to(self.device)
        with autocast(self.device):
            cells = sample(
                lambda x, t: self.denoiser(x, t, conditioning), noisy, self.params.scheduler, self.params.steps
            )
        return codec.decode(cells)[..., :H, :W], person_alpha(region_probs)

    def _finish(self, maps: Control, drawn: Drawn, areas: list[Area], alpha: bool) -> np.ndarray:
        """Put the denoiser's pictures, the warp and the background together. Returns what `runs` yields.

        areas: outside of them the frames are the warp.
        """
        picture, person, share = drawn.picture, drawn.person, drawn.share
        if picture.shape[2:] != share.shape[2:]:
            warp = to_float(maps.warp, self.device)
            picture, person = enlarge(picture, person, to_float(drawn.reduced_warp, self.device), warp)
        frames = maps.warp.copy()
        coverage = one_channel(maps.coverage, self.device) if alpha else None
        alphas = None if coverage is None else coverage.clone()  # with what the denoiser draws of the person
        for area in areas:
            part, part_person, part_share = maps.part(*area.slices), person[..., *area.slices], share[..., *area.slices]
            warp, plate = (to_float(m, self.device) for m in (part.warp, part.plate))
            painted = composite(picture[..., *area.slices], warp, plate, part_person, part_share)
            frames[:, *area.slices] = to_u8(painted)
            if coverage is not None and alphas is not None:
                alphas[..., *area.slices] = torch.lerp(part_person, coverage[..., *area.slices], part_share)
        if alphas is None:
            return frames
        scale = frames.shape[2] / drawn.picture.shape[3]
        plate = to_float(maps.plate, self.device)
        return to_u8(cut_out(to_float(frames, self.device), plate, alphas, scale))


def warp_share(visibility: torch.Tensor, labels: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """How much of every pixel is the warp's, f32 [B, 1, H, W] in 0..1.

    The rest is the denoiser's: all that is less reliable than COPIED, and the outlines of the head, because hair is
    finer than the mesh. Elsewhere the mesh's outline is drawn as it is. visibility f32 [B, 1, H, W] in 0..1:
    `Control.visibility` over 255; labels u8 [B, 1, H, W]: `Control.labels`; scale: pixels per pixel of the denoiser.
    """
    seam, rim = round(_SEAM_WIDTH * scale), round(_HEAD_RIM * scale)
    is_person, is_copied = visibility > 0, visibility * 255 >= COPIED - 0.5
    is_head = torch.isin(labels, torch.tensor([REGION[name] for name in _HEAD_REGIONS], device=labels.device))
    near_head = max_filter(is_head.float(), rim) > 0
    is_reliable = (is_person & is_copied) | (~is_person & ~near_head)
    inside = 1 - max_filter(1 - is_reliable.float(), seam)
    return mean_filter(inside, seam)


def person_alpha(region_probs: torch.Tensor) -> torch.Tensor:
    """Alpha of the person, widened by _PERSON_MARGIN px, f32 [B, 1, H, W] in 0..1. region_probs f32 [B, R, H, W]."""
    person = 1 - region_probs[:, REGION["background"], None]
    return max_filter(person, _PERSON_MARGIN)


def composite(
    image: torch.Tensor, warp: torch.Tensor, plate: torch.Tensor, person: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Put the denoiser's picture over the background plate by its alpha, and the warp over both by its share.

    image, warp and plate f32 [B, 3, H, W] in 0..1; person f32 [B, 1, H, W]: see `person_alpha`; share f32
    [B, 1, H, W]: see `warp_share`.
    """
    return torch.lerp(torch.lerp(plate, image, person), warp, share)


def to_u8(picture: torch.Tensor) -> np.ndarray:
    """Convert a picture f32 [B, C, H, W] in 0..1 to u8 [B, H, W, C]. It is limited to this range."""
    return picture.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
