"""The language prior: which words and sounds carry which gesture class."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model

from stereotalker.acting.gestures import HELD_OUT_WORDS, LEXICON
from stereotalker.errors import UserError
from stereotalker.motion.language_prior import (
    GESTURE_INDEX,
    GESTURE_NAMES,
    MINILM_SHA256,
    SLOTS_PER_TOKEN,
    GestureClassifier,
    LanguagePrior,
    Vocabulary,
    choose_gesture_labels,
    labels_at_slots,
    minilm_folder,
)
from stereotalker.records import Timed
from stereotalker.runtime.stage_log import Log
from stereotalker.store.digests import file_digest
from stereotalker.store.public_models import MINILM, NO_MODEL
from stereotalker.training.language_prior import Utterance, gesture_label, training_loss
from stereotalker.training.loop import Checkpoint, fit


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    return LanguagePrior(8, MINILM, 2)


def test_the_language_model_has_the_upstream_weights():
    assert file_digest(minilm_folder() / "model.safetensors") == MINILM_SHA256


def test_only_the_adapter_and_the_heads_are_trained(prior):
    trained = {name for name, p in prior.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith(("hear", "scale", "heat", "read")) for name in trained)
    assert any("lora_" in name for name in trained)


def test_held_out_words_have_no_training_label():
    assert not set(HELD_OUT_WORDS) & set(LEXICON) and set(HELD_OUT_WORDS.values()) <= set(LEXICON.values())
    assert (
        gesture_label("Gigantic,") == -100
        and gesture_label("huge") == GESTURE_INDEX["big"]
        and gesture_label("umbrella") == 0
    )


def test_tokens_are_assigned_to_their_words():
    tokens = Vocabulary(MINILM).tokens(["gigantic", "umbrellas", "go"])
    assert tokens.word[0] == tokens.word[-1] == -1 and sorted(set(tokens.word[1:-1])) == [0, 1, 2]
    assert np.array_equal(Vocabulary(NO_MODEL).tokens(["Go"]).ids, Vocabulary(NO_MODEL).tokens(["GO"]).ids)
    up, upward = (set(Vocabulary(NO_MODEL).tokens([word]).ids) for word in ("increase", "increasing"))
    assert up & upward and up != upward
    assert len(Vocabulary(MINILM).tokens(["word"] * 2000).ids) <= 256
    assert set(Vocabulary(MINILM).tokens(["", "go"]).word) == {-1, 1} and set(Vocabulary(MINILM).tokens([]).word) == {
        -1
    }


def test_gesture_probabilities_are_read_from_words_and_sound(prior):
    gesture_classifier = GestureClassifier(prior)
    from_words = gesture_classifier.words(["what", "a", "huge", "house"] * 20)
    assert from_words.shape == (80, len(GESTURE_NAMES)) and np.allclose(from_words.sum(1), 1, atol=1e-3)
    assert (
        gesture_classifier.words([]).shape == (0, len(GESTURE_NAMES))
        and gesture_classifier.words(["", "huge"])[0, 0] == 1
    )
    from_sound = gesture_classifier.sound(
        np.random.default_rng(0).normal(size=(SLOTS_PER_TOKEN * 40 + 1, 8)).astype(np.float32)
    )
    assert from_sound.shape == (41, len(GESTURE_NAMES)) and np.isfinite(from_sound).all()


def test_gesture_labels_are_chosen_and_placed():
    probabilities = np.zeros((3, len(GESTURE_NAMES)), np.float32)
    probabilities[0, 0], probabilities[1, 5], probabilities[2, 7] = 1, 0.9, 0.4
    probabilities[2, 0] = 0.6
    assert choose_gesture_labels(probabilities, 0.5).tolist() == [0, 5, 0] and choose_gesture_labels(
        probabilities, 0.3
    ).tolist() == [0, 5, 7]
    words = (Timed("a", 0.0, 0.1), Timed("huge", 0.5, 0.9), Timed("late", 99.0, 99.5))
    assert labels_at_slots(words, np.array([0, 5, 5]), 10, 25.0).tolist() == [0] * 6 + [5] + [0] * 3


def test_the_prior_learns_words_and_their_sound(tiny_params, tmp_path):
    """The prior with a language model and the one without both learn their training example."""
    rng = np.random.default_rng(0)
    words = tuple(
        Timed(text, 0.4 * k, 0.4 * k + 0.36) for k, text in enumerate("we see a huge house and nobody waits".split())
    )
    utterances = [Utterance(words, rng.normal(size=(40, 8)).astype(np.float16))]
    for name in (MINILM, NO_MODEL):
        torch.manual_seed(0)
        prior, losses = LanguagePrior(8, name, 4), []
        loss = training_loss(prior, utterances, 4, 25.0)

        def recorded_loss(step_rng, loss=loss, losses=losses):
            value = loss(step_rng)
            losses.append(float(value.detach()))
            return value

        options = tiny_params.motion.prior.model_copy(update={"steps": 12, "learning_rate": 3e-3})
        fit(prior, recorded_loss, options, Checkpoint(tmp_path / name, "inputs"), Log())
        assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_any_model_in_the_public_format_is_read(tmp_path, kind):
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    vocabulary = dict(vocab_size=30522)
    if kind == "encoder":
        half = BertModel(
            BertConfig(**vocabulary, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        ).bfloat16()
        half.save_pretrained(tmp_path)  # Many public models are stored in half precision.
    else:
        GPT2Model(GPT2Config(**vocabulary, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    gesture_classifier = GestureClassifier(LanguagePrior(8, str(tmp_path), 2))
    assert gesture_classifier.words(["a", "huge", "house"]).shape == (3, len(GESTURE_NAMES))
    assert gesture_classifier.sound(np.zeros((8, 8), np.float32)).shape == (2, len(GESTURE_NAMES))


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a folder, or a hub id with its revision"):
        LanguagePrior(8, str(tmp_path / "nothing"), 2)
