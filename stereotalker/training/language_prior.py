"""Training of the language prior.

It learns gesture classes of words and of sound, and a contrast between sound and the words that are spoken.

The lexicon of the reference acting says which word carries which gesture class. Words of HELD_OUT_WORDS have no label
at all in training, not even "no gesture", so that evaluation can ask whether the language model generalizes to them.

B sentences or utterances, L language model tokens, S slots, D model width, G gesture classes, F audio features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from stereotalker.acting.gestures import HELD_OUT_WORDS, LEXICON, gesture_class_of
from stereotalker.motion.language_prior import (
    GESTURE_INDEX,
    SLOT,
    SLOTS_PER_TOKEN,
    LanguagePrior,
    Vocabulary,
    pool_slots,
)
from stereotalker.records import Timed
from stereotalker.runtime.device import autocast

_MAX_WORDS = 14  # in a training sentence
_SLOTS = 16 * SLOTS_PER_TOKEN  # in a training segment of sound
_IGNORED = -100  # label that the cross entropy ignores


@dataclass(frozen=True)
class Utterance:
    """Words with their times, and the audio features of their sound."""

    words: tuple[Timed, ...]
    slots: np.ndarray  # f16 [S, F], means over the motion frames of each slot


def gesture_label(word: str) -> int:
    """Index of a word's gesture class in GESTURE_NAMES, 0 if it has none, _IGNORED (-100) if the word is held out."""
    bare = word.lower().strip(".,!?;:\"'()…¿¡")
    return _IGNORED if bare in HELD_OUT_WORDS else GESTURE_INDEX[gesture_class_of(word) or ""]


def training_loss(prior: LanguagePrior, utterances: list[Utterance], batch: int, fps: float):
    """A function loss(rng) on a batch of `batch` sentences and `batch` utterances that it draws from `rng`.

    It sums the cross entropy of gesture classes from words and from sound, and a contrastive loss between sound and the
    words spoken (van den Oord et al. 2018). `fps` is the motion's frame rate.
    """
    vocabulary = Vocabulary(prior.language_model)
    sentences = [[w.text for w in u.words] for u in utterances if u.words]
    spoken = [u for u in utterances if u.words and len(u.slots) >= SLOTS_PER_TOKEN]
    lexicon = sorted(LEXICON)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        with autocast():
            words_loss = _words_loss(prior, vocabulary, [_sentence(sentences, lexicon, rng) for _ in range(batch)])
            sound_loss = _sound_loss(
                prior, vocabulary, [spoken[k] for k in rng.integers(len(spoken), size=batch)], fps, rng
            )
        return words_loss + sound_loss

    return loss


def _sentence(sentences: list[list[str]], lexicon: list[str], rng: np.random.Generator) -> list[str]:
    """Words of a sentence of the corpus, two of them replaced by words of the lexicon; or one word of the lexicon."""
    if rng.random() < 0.25:
        return [lexicon[rng.integers(len(lexicon))]]
    words = sentences[rng.integers(len(sentences))]
    start = int(rng.integers(max(len(words) - _MAX_WORDS, 0) + 1))
    words = [w.lower() for w in words[start : start + _MAX_WORDS]]
    for index in rng.integers(len(words), size=2):
        words[index] = lexicon[rng.integers(len(lexicon))]
    return words


def _words_loss(prior: LanguagePrior, vocabulary: Vocabulary, sentences: list[list[str]]) -> torch.Tensor:
    """Cross entropy of gesture classes predicted from the tokens of sentences."""
    rows = [vocabulary.tokens(words) for words in sentences]
    L = max(len(row.ids) for row in rows)
    ids, labels, real = (
        np.zeros((len(rows), L), np.int64),
        np.full((len(rows), L), _IGNORED),
        np.zeros((len(rows), L), bool),
    )
    for b, (row, words) in enumerate(zip(rows, sentences, strict=True)):
        n = len(row.ids)
        ids[b, :n], real[b, :n] = row.ids, True
        labels[b, :n] = [_IGNORED if k < 0 else gesture_label(words[k]) for k in row.word]
    logits = prior(prior.embed(torch.from_numpy(ids)), torch.from_numpy(real))
    return _gesture_loss(logits, torch.from_numpy(labels))


def _sound_loss(
    prior: LanguagePrior, vocabulary: Vocabulary, utterances: list[Utterance], fps: float, rng: np.random.Generator
) -> torch.Tensor:
    """Cross entropy of gesture classes predicted from sound, plus half the contrastive loss."""
    slots, labels, spoken_words = [], np.zeros((len(utterances), _SLOTS // SLOTS_PER_TOKEN), np.int64), []
    for b, u in enumerate(utterances):
        start = int(rng.integers(max(len(u.slots) - _SLOTS, 0) + 1))
        segment = u.slots[start : start + _SLOTS].astype(np.float32)
        slots.append(np.pad(segment, ((0, _SLOTS - len(segment)), (0, 0))))
        for word in u.words:
            first, last = (int(t * fps / SLOT) - start for t in (word.start, word.end))
            if 0 <= first and last < len(segment) and last > first:
                spoken_words.append((b, first, last, word.text.lower()))
                if label := gesture_label(word.text):
                    labels[b, (first + last) // 2 // SLOTS_PER_TOKEN] = label
    projected = prior.project(torch.from_numpy(np.stack(slots)))
    tokens = pool_slots(projected)
    gesture_loss = _gesture_loss(
        prior(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)), torch.from_numpy(labels)
    )
    return gesture_loss + 0.5 * _contrastive_loss(prior, vocabulary, projected, spoken_words)


def _contrastive_loss(
    prior: LanguagePrior,
    vocabulary: Vocabulary,
    projected_BSD: torch.Tensor,
    spoken_words: list[tuple[int, int, int, str]],
) -> torch.Tensor:
    """Cross entropy of picking a spoken word from its projected sound, among all words of the batch.

    A spoken word is (row of the batch, first slot, slot behind the last, word).
    """
    names = sorted({word for *_, word in spoken_words})
    if len(names) < 2:
        return projected_BSD.sum() * 0
    with torch.no_grad():
        word_embeddings = torch.stack([word_embedding(prior, vocabulary, name) for name in names])
    sound_embeddings = torch.stack([projected_BSD[b, first:last].mean(0) for b, first, last, _ in spoken_words])
    similarity = (
        functional.normalize(sound_embeddings.float(), dim=-1) @ functional.normalize(word_embeddings.float(), dim=-1).T
    )
    return functional.cross_entropy(
        similarity * prior.heat.exp(), torch.tensor([names.index(word) for *_, word in spoken_words])
    )


def word_embedding(prior: LanguagePrior, vocabulary: Vocabulary, word: str) -> torch.Tensor:
    """Mean input embedding of a word's tokens, f32 [D]; of the begin and end marks if the word has no token."""
    tokens = vocabulary.tokens([word])
    word_ids = tokens.ids[tokens.word == 0]
    return prior.embed(torch.from_numpy(word_ids if len(word_ids) else tokens.ids)).mean(0)


def _gesture_loss(logits_BLG: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
    """Cross entropy of gesture classes.

    Words without a gesture are ten times as many as those with one, so they weigh a fifth.
    """
    weights = torch.ones(logits_BLG.shape[-1])
    weights[0] = 0.2
    return functional.cross_entropy(
        logits_BLG.float().flatten(0, 1),
        labels_BL.flatten(),
        weight=weights,
        ignore_index=_IGNORED,
        label_smoothing=0.05,
    )
