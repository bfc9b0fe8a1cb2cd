"""Training of the language prior: signs off words in sentences, sound pulled to the words it says, signs off sound.

The lexicon of the acting says which word carries which sign; of words of HELD_OUT no sign and no absence of one is ever shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from stereotalker.acting.gestures import HELD_OUT, LEXICON, meaning
from stereotalker.motion.language_prior import GESTURE_INDEX, POOLED, SLOT, LanguagePrior, Vocabulary, pooled
from stereotalker.records import Timed
from stereotalker.runtime.device import autocast

_WORDS = 14  # of a training sentence, at most
_SLOTS = 16 * POOLED  # of a training stretch of sound
_UNKNOWN = -100  # a label that is not looked at


@dataclass(frozen=True)
class Utterance:
    """What is said and how it sounds: slots f16 [S, F] at the motion's rate."""

    words: tuple[Timed, ...]
    slots: np.ndarray


def gesture_label(word: str) -> int:
    """The label of a word: its sign, 0 for none, _UNKNOWN for words that are held out."""
    bare = word.lower().strip(".,!?;:\"'()…¿¡")
    return _UNKNOWN if bare in HELD_OUT else GESTURE_INDEX[meaning(word) or ""]


def training_loss(prior: LanguagePrior, utterances: list[Utterance], batch: int, fps: float):
    """Cross entropy of signs, off words and off sound, and the contrast between sound and the words said (van den Oord et al. 2018)."""
    vocabulary = Vocabulary(prior.language_model)
    sentences = [[w.text for w in u.words] for u in utterances if u.words]
    spoken = [u for u in utterances if u.words and len(u.slots) >= POOLED]
    lexicon = sorted(LEXICON)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        with autocast():
            told = _words_loss(prior, vocabulary, [_sentence(sentences, lexicon, rng) for _ in range(batch)])
            heard = _sound_loss(prior, vocabulary, [spoken[k] for k in rng.integers(len(spoken), size=batch)], fps, rng)
        return told + heard

    return loss


def _sentence(sentences: list[list[str]], lexicon: list[str], rng: np.random.Generator) -> list[str]:
    """Words that somebody says, two of them exchanged for words of the lexicon; or a word of the lexicon alone."""
    if rng.random() < 0.25:
        return [lexicon[rng.integers(len(lexicon))]]
    words = sentences[rng.integers(len(sentences))]
    start = int(rng.integers(max(len(words) - _WORDS, 0) + 1))
    words = [w.lower() for w in words[start : start + _WORDS]]
    for at in rng.integers(len(words), size=2):
        words[at] = lexicon[rng.integers(len(lexicon))]
    return words


def _words_loss(prior: LanguagePrior, vocabulary: Vocabulary, sentences: list[list[str]]) -> torch.Tensor:
    rows = [vocabulary.tokens(words) for words in sentences]
    L = max(len(row.ids) for row in rows)
    ids, labels, real = (
        np.zeros((len(rows), L), np.int64),
        np.full((len(rows), L), _UNKNOWN),
        np.zeros((len(rows), L), bool),
    )
    for b, (row, words) in enumerate(zip(rows, sentences, strict=True)):
        n = len(row.ids)
        ids[b, :n], real[b, :n] = row.ids, True
        labels[b, :n] = [_UNKNOWN if k < 0 else gesture_label(words[k]) for k in row.word]
    logits = prior(prior.embed(torch.from_numpy(ids)), torch.from_numpy(real))
    return _signs_loss(logits, torch.from_numpy(labels))


def _sound_loss(
    prior: LanguagePrior, vocabulary: Vocabulary, utterances: list[Utterance], fps: float, rng: np.random.Generator
) -> torch.Tensor:
    slots, labels, said = [], np.zeros((len(utterances), _SLOTS // POOLED), np.int64), []
    for b, u in enumerate(utterances):
        start = int(rng.integers(max(len(u.slots) - _SLOTS, 0) + 1))
        piece = u.slots[start : start + _SLOTS].astype(np.float32)
        slots.append(np.pad(piece, ((0, _SLOTS - len(piece)), (0, 0))))
        for word in u.words:
            first, last = (int(t * fps / SLOT) - start for t in (word.start, word.end))
            if 0 <= first and last < len(piece) and last > first:
                said.append((b, first, last, word.text.lower()))
                if sign := gesture_label(word.text):
                    labels[b, (first + last) // 2 // POOLED] = sign
    projected = prior.project(torch.from_numpy(np.stack(slots)))
    tokens = pooled(projected)
    signs = _signs_loss(prior(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)), torch.from_numpy(labels))
    return signs + 0.5 * _contrast(prior, vocabulary, projected, said)


def _contrast(
    prior: LanguagePrior, vocabulary: Vocabulary, projected_BSD: torch.Tensor, said: list[tuple[int, int, int, str]]
) -> torch.Tensor:
    """Every word's sound against the words of the batch."""
    names = sorted({word for *_, word in said})
    if len(names) < 2:
        return projected_BSD.sum() * 0
    with torch.no_grad():
        told = torch.stack([word_embedding(prior, vocabulary, name) for name in names])
    heard = torch.stack([projected_BSD[b, first:last].mean(0) for b, first, last, _ in said])
    likeness = functional.normalize(heard.float(), dim=-1) @ functional.normalize(told.float(), dim=-1).T
    return functional.cross_entropy(likeness * prior.heat.exp(), torch.tensor([names.index(word) for *_, word in said]))


def word_embedding(prior: LanguagePrior, vocabulary: Vocabulary, word: str) -> torch.Tensor:
    """Mean input embedding of a word's tokens, f32 [D]."""
    tokens = vocabulary.tokens([word])
    own = tokens.ids[tokens.word == 0]
    return prior.embed(torch.from_numpy(own if len(own) else tokens.ids)).mean(0)  # a word of no token: the marks


def _signs_loss(logits_BLG: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
    """Words without a sign are ten times as many as those with one, and count a fifth each."""
    weights = torch.ones(logits_BLG.shape[-1])
    weights[0] = 0.2
    return functional.cross_entropy(
        logits_BLG.float().flatten(0, 1),
        labels_BL.flatten(),
        weight=weights,
        ignore_index=_UNKNOWN,
        label_smoothing=0.05,
    )
