"""The language prior: which words and sounds carry which sign."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model

from stereotalker.acting.gestures import HELD_OUT_WORDS, LEXICON
from stereotalker.errors import UserError
from stereotalker.motion.language_prior import (
    GESTURE_INDEX,
    GESTURE_NAMES,
    MINILM,
    MINILM_SHA256,
    NO_MODEL,
    SLOTS_PER_TOKEN,
    GestureClassifier,
    LanguagePrior,
    Vocabulary,
    choose_gesture_labels,
    labels_at_slots,
    minilm_folder,
)
from stereotalker.records import Timed
from stereotalker.store.digests import file_digest
from stereotalker.training.language_prior import Utterance, gesture_label, training_loss
from stereotalker.training.loop import fit


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    return LanguagePrior(8, MINILM, 2)


def test_the_language_model_is_the_upstream_one():
    assert file_digest(minilm_folder() / "model.safetensors") == MINILM_SHA256


def test_only_the_adapter_learns(prior):
    learning = {name for name, p in prior.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith(("hear", "scale", "heat", "read")) for name in learning)
    assert any("lora_" in name for name in learning)


def test_held_out_words_are_never_shown():
    assert not set(HELD_OUT_WORDS) & set(LEXICON) and set(HELD_OUT_WORDS.values()) <= set(LEXICON.values())
    assert (
        gesture_label("Gigantic,") == -100
        and gesture_label("huge") == GESTURE_INDEX["big"]
        and gesture_label("umbrella") == 0
    )


def test_words_keep_their_tokens():
    tokens = Vocabulary(MINILM).tokens(["gigantic", "umbrellas", "go"])
    assert tokens.word[0] == tokens.word[-1] == -1 and sorted(set(tokens.word[1:-1])) == [0, 1, 2]
    assert np.array_equal(Vocabulary(NO_MODEL).tokens(["Go"]).ids, Vocabulary(NO_MODEL).tokens(["GO"]).ids)
    up, upward = (set(Vocabulary(NO_MODEL).tokens([word]).ids) for word in ("increase", "increasing"))
    assert up & upward and up != upward
    assert len(Vocabulary(MINILM).tokens(["word"] * 2000).ids) <= 256
    assert set(Vocabulary(MINILM).tokens(["", "go"]).word) == {-1, 1} and set(Vocabulary(MINILM).tokens([]).word) == {
        -1
    }


def test_reading_words_and_sound(prior):
    reader = GestureClassifier(prior)
    told = reader.words(["what", "a", "huge", "house"] * 20)
    assert told.shape == (80, len(GESTURE_NAMES)) and np.allclose(told.sum(1), 1, atol=1e-3)
    assert reader.words([]).shape == (0, len(GESTURE_NAMES)) and reader.words(["", "huge"])[0, 0] == 1
    heard = reader.sound(np.random.default_rng(0).normal(size=(SLOTS_PER_TOKEN * 40 + 1, 8)).astype(np.float32))
    assert heard.shape == (41, len(GESTURE_NAMES)) and np.isfinite(heard).all()


def test_signs_are_chosen_and_placed():
    probabilities = np.zeros((3, len(GESTURE_NAMES)), np.float32)
    probabilities[0, 0], probabilities[1, 5], probabilities[2, 7] = 1, 0.9, 0.4
    probabilities[2, 0] = 0.6
    assert choose_gesture_labels(probabilities, 0.5).tolist() == [0, 5, 0] and choose_gesture_labels(
        probabilities, 0.3
    ).tolist() == [0, 5, 7]
    words = (Timed("a", 0.0, 0.1), Timed("huge", 0.5, 0.9), Timed("late", 99.0, 99.5))
    assert labels_at_slots(words, np.array([0, 5, 5]), 10, 25.0).tolist() == [0] * 6 + [5] + [0] * 3


def test_the_prior_learns_words_and_their_sound(tiny_params, tmp_path):
    """With a language model and without: both learn what they are shown."""
    rng = np.random.default_rng(0)
    words = tuple(
        Timed(text, 0.4 * k, 0.4 * k + 0.36) for k, text in enumerate("we see a huge house and nobody waits".split())
    )
    said = [Utterance(words, rng.normal(size=(40, 8)).astype(np.float16))]
    for name in (MINILM, NO_MODEL):
        torch.manual_seed(0)
        prior, seen = LanguagePrior(8, name, 4), []
        loss = training_loss(prior, said, 4, 25.0)

        def counted(step_rng, loss=loss, seen=seen):
            value = loss(step_rng)
            seen.append(float(value.detach()))
            return value

        options = tiny_params.motion.prior.model_copy(update={"steps": 12, "learning_rate": 3e-3})
        fit(prior, counted, options, tmp_path / name, lambda *_: None)
        assert np.mean(seen[-3:]) < np.mean(seen[:3])


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_any_model_in_the_public_format(tmp_path, kind):
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    vocabulary = dict(vocab_size=30522)
    if kind == "encoder":
        half = BertModel(
            BertConfig(**vocabulary, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        ).bfloat16()
        half.save_pretrained(tmp_path)  # as many public models are stored
    else:
        GPT2Model(GPT2Config(**vocabulary, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    reader = GestureClassifier(LanguagePrior(8, str(tmp_path), 2))
    assert reader.words(["a", "huge", "house"]).shape == (3, len(GESTURE_NAMES))
    assert reader.sound(np.zeros((8, 8), np.float32)).shape == (2, len(GESTURE_NAMES))


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="expected minilm, a model's id or its folder"):
        LanguagePrior(8, str(tmp_path / "nothing"), 2)
