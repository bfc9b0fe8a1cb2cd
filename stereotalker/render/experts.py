"""Prior-guided mixture of experts (Stereo-Talker, arXiv 2410.23836, section 3.3), used for every feed-forward layer.

Priors decide which expert works, not a learned router: a small gate mixes the view experts by the camera's azimuth and
elevation, and every token is dispatched to the one region expert of its region. Tokens of pure background are skipped.

Experts are up-cycled (Komatsuzaki et al., 2023) from a dense feed-forward. Its hidden units are divided: one quarter
initializes every view expert, one quarter every region expert, and the shared expert gets the rest. So at first the
sum of the experts equals the dense layer, and the number of units that work on a token stays the same.

B: frames; V: views, that is, runs of consecutive frames with the same camera direction; N: tokens per frame; M:
tokens that are not background; D: width; P: largest number of such tokens in a view; K: view experts; R: region
experts; E: experts of a bank; H: hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from stereotalker.diffusion.diffusers_classes import FeedForward
from stereotalker.errors import UserError
from stereotalker.smplx_layout import REGION, REGIONS

# The kinds of models: whether they have view experts, and whether they have region experts.
EXPERTS = {
    "none": (False, False),
    "view": (True, False),
    "region": (False, True),
    "both": (True, True),
}
# An expert gets one of this many equal parts of the dense layer's hidden units.
_HIDDEN_PARTS = 4
# Legs are seldom in a picture, and clothed as the torso is, so both share an expert.
REGION_EXPERTS = [name for name in REGIONS[1:] if name != "legs"]
# i64 [regions]: the expert of every region, -1 for the background.
EXPERT_OF = torch.tensor([-1, *(REGION_EXPERTS.index("torso" if name == "legs" else name) for name in REGIONS[1:])])
# Azimuth around which the outermost view experts start, and standard deviation of every view expert's weight, rad.
_OUTERMOST_AZIMUTH = 0.5
_AZIMUTH_WIDTH = 0.35


@dataclass(frozen=True)
class Dispatch:
    """Which experts work on which tokens of a grid. It is made once for every call of the network."""

    tokens: torch.Tensor  # i64 [M] index into the B x N tokens: those that are not background, frame by frame
    slots: torch.Tensor  # i64 [M] row of each of them in a table of V x P rows, where every view has P
    slots_per_view: int  # P
    order: torch.Tensor  # i64 [M] index into `tokens` that sorts them by their region expert
    expert_counts: list[int]  # [R] number of tokens of every region expert


class Guidance:
    """The priors of the frames that are being denoised: their regions and views.

    The denoiser sets them before each call of the network; expert layers and attention over time read them.
    """

    def set(self, regions_BHW: torch.Tensor, view_B2: torch.Tensor, frames: int) -> None:
        """Set the priors of a batch of frames.

        regions_BHW i64: region of every token on the finest grid, H x W here; view_B2 f32: azimuth and elevation, rad;
        frames: length of the runs of consecutive frames in the batch.
        """
        self.regions_BHW, self.frames = regions_BHW, frames
        self.views_V2, self._view_B = torch.unique_consecutive(view_B2, dim=0, return_inverse=True)
        self._dispatch_of_grid: dict[int, Dispatch] = {}

    def at(self, tokens: int) -> torch.Tensor:
        """Region of every token on the grid that has `tokens` tokens, i64 [B, tokens].

        A coarse token has the most frequent region of the person in its block, and is background only if all of it is.
        """
        H, W = self.regions_BHW.shape[1:]
        shrink = round((H * W / tokens) ** 0.5)
        if shrink == 1:
            return self.regions_BHW.flatten(1)
        # [B, cells of a block, tokens]
        blocks = functional.unfold(self.regions_BHW[:, None].float(), shrink, stride=shrink).long()
        counts = torch.stack([(blocks == k).sum(1) for k in range(1, len(REGIONS))], 1)
        return torch.where(counts.sum(1) > 0, counts.argmax(1) + 1, REGION["background"])

    def dispatch(self, tokens: int) -> Dispatch:
        """The dispatch on the grid that has `tokens` tokens; it is computed once after every `set`."""
        if tokens not in self._dispatch_of_grid:
            region_BN = self.at(tokens)
            is_person_BN = region_BN != REGION["background"]
            expert_M = EXPERT_OF.to(region_BN.device)[region_BN[is_person_BN]]
            count_V = torch.bincount(self._view_B, is_person_BN.sum(1), len(self.views_V2)).long()
            slots_per_view = int(count_V.max())
            # A token's slot is its number among the M tokens, moved by the unused slots of the views before its own.
            first_slot_V = slots_per_view * torch.arange(len(count_V), device=count_V.device)
            shift_V = first_slot_V - (count_V.cumsum(0) - count_V)
            slots = torch.arange(len(expert_M), device=count_V.device) + shift_V.repeat_interleave(
                count_V, output_size=len(expert_M)
            )
            self._dispatch_of_grid[tokens] = Dispatch(
                tokens=is_person_BN.flatten().nonzero().flatten(),
                slots=slots,
                slots_per_view=slots_per_view,
                order=torch.argsort(expert_M, stable=True),
                expert_counts=torch.bincount(expert_M, minlength=len(REGION_EXPERTS)).tolist(),
            )
        return self._dispatch_of_grid[tokens]


class ViewGate(nn.Module):
    """Mixing weights of the view experts, as a smooth function of the camera's direction.

    At first, every expert has its own azimuth: they are evenly spaced over +-_OUTERMOST_AZIMUTH.
    """

    computes_in_float32 = True

    def __init__(self, experts: int):
        super().__init__()
        self.layer = nn.Linear(4, experts)
        centers = torch.linspace(-_OUTERMOST_AZIMUTH, _OUTERMOST_AZIMUTH, experts)
        # These are the logarithms of Gaussians of the azimuth; their common quadratic term cancels in the softmax.
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[:, 0] = centers / _AZIMUTH_WIDTH**2
            self.layer.bias.copy_(-(centers**2) / (2 * _AZIMUTH_WIDTH**2))

    def forward(self, view_V2: torch.Tensor) -> torch.Tensor:
        """Azimuth and elevation f32 [V, 2], rad -> weights [V, K], which sum to one over the experts."""
        azimuth, elevation = view_V2.to(self.layer.weight.dtype).unbind(-1)
        return self.layer(torch.stack([azimuth, elevation, azimuth**2, elevation**2], -1)).softmax(-1)


class ExpertBank(nn.Module):
    """The parameters of E gated feed-forwards (GEGLU, Shazeer 2020) of H hidden units, without a bias of the output."""

    def __init__(self, experts: int, width: int, hidden: int):
        super().__init__()
        # [E, 2 H, D]: rows of the values first, then rows of the gates.
        self.into = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.bias = nn.Parameter(torch.empty(experts, 2 * hidden))
        self.out = nn.Parameter(torch.empty(experts, width, hidden))

    @torch.no_grad()
    def init_from_dense(self, dense: FeedForward, units: slice) -> None:
        """Initialize every expert with the given hidden units of a dense layer."""
        project, out = _dense_layers(dense)
        H = out.in_features
        rows = torch.cat([torch.arange(H)[units], H + torch.arange(H)[units]])
        self.into.copy_(project.weight[rows])
        self.bias.copy_(project.bias[rows])
        self.out.copy_(out.weight[:, units])


def _dense_layers(dense: FeedForward) -> tuple[nn.Linear, nn.Linear]:
    """The two layers of a dense GEGLU feed-forward: from D to 2 H, values before gates, and from H to D."""
    project, out = dense.net[0].proj, dense.net[2]
    assert isinstance(project, nn.Linear) and isinstance(out, nn.Linear)
    return project, out


def geglu(x: torch.Tensor, into: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Apply a gated feed-forward (GEGLU) to tokens x [M, D], or one per view to tokens x [V, P, D].

    into [2 H, D], bias [2 H] and out [D, H], in the second case with a leading dimension V. Parameters are cast to
    x's dtype.
    """
    value, gate = _linear(x, into.to(x.dtype), bias.to(x.dtype)).chunk(2, -1)
    return _linear(value * functional.gelu(gate), out.to(x.dtype))


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer of x [M, D], or of x [V, P, D] if the weights have a leading dimension V."""
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)


class PriorGuidedExperts(nn.Module):
    """A feed-forward layer: the sum of a shared expert, a mixture of view experts, and the expert of a token's region.

    The gate mixes the parameters of the view experts, not their outputs. The result is 0 for background tokens.
    dense: the layer to up-cycle; kinds: a key of EXPERTS; view_experts: K.
    """

    def __init__(self, dense: FeedForward, kinds: str, view_experts: int, guidance: Guidance):
        super().__init__()
        self.guidance = guidance
        _, dense_out = _dense_layers(dense)
        width, hidden = dense_out.out_features, dense_out.in_features
        has_view_experts, has_region_experts = EXPERTS[kinds]
        expert_units = hidden // _HIDDEN_PARTS
        shared_units = hidden - expert_units * (has_view_experts + has_region_experts)
        self.shared = ExpertBank(1, width, shared_units)
        self.shared.init_from_dense(dense, slice(0, shared_units))
        self.bias = nn.Parameter(dense_out.bias.detach().clone())
        self.view, self.region = None, None
        if has_view_experts:
            self.gate = ViewGate(view_experts)
            self.view = ExpertBank(view_experts, width, expert_units)
            self.view.init_from_dense(dense, slice(shared_units, shared_units + expert_units))
        if has_region_experts:
            self.region = ExpertBank(len(REGION_EXPERTS), width, expert_units)
            self.region.init_from_dense(dense, slice(hidden - expert_units, hidden))

    @torch.no_grad()
    def to_dense(self) -> FeedForward:
        """The plain feed-forward that equals this layer. Raises UserError if it has view or region experts."""
        if self.view is not None or self.region is not None:
            raise UserError("only a denoiser without experts can be given some; train the stage `dense` again")
        _, width, hidden = self.shared.out.shape
        plain = FeedForward(width, inner_dim=hidden)
        project, out = _dense_layers(plain)
        project.weight.copy_(self.shared.into[0])
        project.bias.copy_(self.shared.bias[0])
        out.weight.copy_(self.shared.out[0])
        out.bias.copy_(self.bias)
        return plain

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] -> [B, N, D]."""
        dispatch = self.guidance.dispatch(x_BND.shape[1])
        x_MD = x_BND.flatten(0, 1)[dispatch.tokens]
        if self.view is None:
            y_MD = geglu(x_MD, self.shared.into[0], self.shared.bias[0], self.shared.out[0])
        else:
            # The shared and the view experts see the same tokens, so they are one layer per view. All views are padded
            # to P tokens, to be computed in one batched product.
            layers = self._merged_layers()
            V, P, D = len(layers[0]), dispatch.slots_per_view, x_MD.shape[1]
            x_VPD = x_MD.new_zeros(V * P, D).index_copy_(0, dispatch.slots, x_MD).view(V, P, D)
            y_MD = geglu(x_VPD, *layers).flatten(0, 1)[dispatch.slots]
        y_MD = y_MD + self.bias.to(y_MD.dtype)
        if self.region is not None:
            groups = x_MD[dispatch.order].split(dispatch.expert_counts)
            parts = [
                geglu(x, self.region.into[r], self.region.bias[r], self.region.out[r])
                for r, x in enumerate(groups)
                if len(x)
            ]
            y_MD = y_MD.index_add(0, dispatch.order, torch.cat(parts).to(y_MD.dtype)) if parts else y_MD
        out = torch.zeros(x_BND.shape[0] * x_BND.shape[1], y_MD.shape[1], dtype=y_MD.dtype, device=y_MD.device)
        return out.index_copy(0, dispatch.tokens, y_MD).view_as(x_BND)

    def _merged_layers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shared expert and the mixture of view experts side by side, as one layer per view.

        Returns into [V, 2 H, D], bias [V, 2 H] and out [V, D, H], where H counts the hidden units of both.
        """
        assert self.view is not None
        # Mixed in float32: in bfloat16, the mixture would jump when the camera moves slowly.
        with torch.autocast(self.bias.device.type, enabled=False):
            gate_VK = self.gate(self.guidance.views_V2.float())
            mixed = [
                torch.einsum("vk,k...->v...", gate_VK, p.float())
                for p in (self.view.into, self.view.bias, self.view.out)
            ]
        shared = [p.expand(len(gate_VK), *p.shape[1:]) for p in (self.shared.into, self.shared.bias, self.shared.out)]
        # Rows are values first, then gates, so the two halves are concatenated separately.
        into, bias = (
            torch.cat([a.unflatten(1, (2, -1)), b.unflatten(1, (2, -1))], 2).flatten(1, 2)
            for a, b in zip(shared[:2], mixed[:2], strict=True)
        )
        return into, bias, torch.cat([shared[2], mixed[2]], 2)
