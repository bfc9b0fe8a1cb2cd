"""The speech corpus: sentences and recordings become utterances, split so that parts share nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from stereotalker.audio.augmentation import CODECS, through_codec
from stereotalker.dataset.speech_corpus import (
    PARTS,
    REJECTED,
    build_corpus,
    is_held_out,
    read_corpus,
    read_index,
    read_sentences,
    words_only,
)
from stereotalker.errors import UserError
from stereotalker.records import Speech, load

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dataset")]


def test_parts_share_no_voice_and_no_sentence(corpus, tiny_params):
    rows = {part: read_index(corpus / part) for part in PARTS}
    assert len(rows["train"]) == 8 and len(rows["held_out"]) == 4
    assert not {r.text for r in rows["train"]} & {r.text for r in rows["held_out"]}
    variants = {part: {r.voice.split("+")[1].split()[0] for r in rows[part]} for part in PARTS}
    assert not variants["train"] & variants["held_out"]
    for row, speech in zip(rows["train"], read_corpus(corpus / "train"), strict=True):
        assert speech.seconds == pytest.approx(row.seconds, abs=1e-3) and speech.phonemes


def test_the_corpus_is_a_function_of_its_seed(corpus, tiny_params, tmp_path):
    build_corpus(tmp_path / "again", tiny_params.speech, tiny_params.audio, processes=1)
    for part in PARTS:
        for one, two in zip(
            sorted((corpus / part).iterdir()), sorted((tmp_path / "again" / part).iterdir()), strict=True
        ):
            assert one.name == two.name and one.read_bytes() == two.read_bytes()


def test_many_languages_and_codecs(tiny_params, tmp_path):
    from stereotalker.params import ROOT, load_params

    languages = load_params(ROOT / "params.yaml").speech.languages
    assert len(languages) >= 12
    sentences, rejected = read_sentences(ROOT / "stereotalker" / "assets" / "sentences", languages)
    assert not rejected and set(sentences) | {"en-gb"} == set(languages)
    assert all(any(not is_held_out(t) for t in texts) for texts in sentences.values())
    some = tiny_params.speech.model_copy(
        update={"languages": ["hi", "ja", "ru", "cmn"], "utterances": 6, "held_out": 0, "codecs": 1.0}
    )
    build_corpus(tmp_path / "s", some, tiny_params.audio, processes=2)
    rows = read_index(tmp_path / "s" / "train")
    assert len(rows) == 6 and all(row.codec in CODECS for row in rows) and len({row.language for row in rows}) > 1


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_keep_time_and_length(speech, codec):
    heard = through_codec(speech.samples, codec)
    assert len(heard) == len(speech.samples) and heard.dtype == np.float32

    def level(x):
        return np.convolve(np.abs(x), np.ones(160) / 160, "same")[::160]

    assert np.corrcoef(level(heard), level(speech.samples))[0, 1] > 0.95
    assert not np.array_equal(heard, speech.samples)


def test_sentences_that_cannot_be_spoken_are_refused_with_reasons(tmp_path, tiny_params):
    (tmp_path / "en-us.txt").write_bytes("Good morning.\nДоброе утро.\n?!\n".encode() + b"caf\xe9\n")
    (tmp_path / "de.txt").write_text("Guten Morgen.\n")
    (tmp_path / "tlh.txt").write_text("nuqneH\n")
    sentences, rejected = read_sentences(tmp_path, ["en-us", "de"])
    assert sentences == {"en-us": ["Good morning."], "de": ["Guten Morgen."]}
    reasons = {(row["file"], row.get("line")): row["reason"] for row in rejected}
    assert "cyrillic letters" in reasons["en-us.txt", 2] and reasons["en-us.txt", 3] == "no letters or digits"
    assert reasons["en-us.txt", 4] == "not UTF-8 text" and "speech.languages" in reasons["tlh.txt", None]
    params = tiny_params.speech.model_copy(
        update={"sentences": tmp_path, "languages": ["en-us", "de"], "utterances": 2, "held_out": 0}
    )
    build_corpus(tmp_path / "out", params, tiny_params.audio, processes=1)
    assert (
        len((tmp_path / "out" / REJECTED).read_text().splitlines()) == 4
        and len(read_index(tmp_path / "out" / "train")) == 2
    )
    with pytest.raises(UserError, match="holds no sentence in fr-fr"):
        read_sentences(tmp_path, ["fr-fr"])
    with pytest.raises(UserError, match="not found"):
        read_sentences(tmp_path / "nowhere", ["de"])


def test_real_recordings_are_split_by_speaker_and_sentence(real_speech, tiny_params, tmp_path):
    names = ("p225_003", "p228_003", "austen_64kb-0880", "LJ001-0002", "test_it.wav")
    rows = [
        line
        for line in (real_speech / "transcripts.csv").read_text().splitlines()
        if any(name in line for name in names)
    ]
    folder = tmp_path / "shared" / "speech"
    folder.mkdir(parents=True)
    for row in rows:
        path = Path(row.split(",")[0])
        (folder.parent / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_speech.parent / path, folder.parent / path)
    head = (real_speech / "transcripts.csv").read_text().splitlines()[0]
    (folder / "transcripts.csv").write_text(
        "\n".join([head, *rows, "speech/gone.wav,nobody,en,16000,1,Hello there.,"]) + "\n"
    )
    spoken = next(row.split(",")[0] for row in rows if "p225_003" in row)
    (folder / "untold").mkdir()
    shutil.copy(real_speech.parent / spoken, folder / "untold" / "held_out_sentence.wav")
    shutil.copy(real_speech / "whisper" / "jfk.wav", folder / "untold" / "president.wav")
    params = tiny_params.speech.model_copy(
        update={"utterances": 1, "held_out": 0, "recordings": folder, "untranscribed": folder / "untold"}
    )
    build_corpus(tmp_path / "s", params, tiny_params.audio, processes=1)
    texts = {part: {r.text for r in read_index(tmp_path / "s" / part) if r.kind == "real"} for part in PARTS}
    voices = {part: {r.voice for r in read_index(tmp_path / "s" / part) if r.kind == "real"} for part in PARTS}
    assert voices == {
        "train": {"ljspeech", "untold"},
        "held_out": {"vctk_p225", "vctk_p228", "librivox_austen", "picovoice_it"},
    }
    plain = {part: {words_only(text) for text in texts[part]} for part in PARTS}
    assert all(plain["train"]) and not plain["train"] & plain["held_out"]
    heard = next(row for row in read_index(tmp_path / "s" / "train") if row.voice == "untold")
    assert "ask not what your country can do for you" in words_only(heard.text)
    speech = load(Speech, tmp_path / "s" / "train" / heard.file)
    assert len(speech.words) == len(heard.text.split()) and len(speech.phonemes) > 40
    rejected = (tmp_path / "s" / REJECTED).read_text()
    assert '"held_out_sentence.wav", "reason": "its sentence belongs to the other part"' in rejected
    assert not (tmp_path / "s" / "train" / "real-00006.safetensors").exists()
    with pytest.raises(UserError, match="speech.untranscribed: .* holds no .flac"):
        build_corpus(
            tmp_path / "t",
            params.model_copy(update={"untranscribed": tmp_path / "s" / "train"}),
            tiny_params.audio,
            processes=1,
        )
    with pytest.raises(UserError, match="speech.texts: .* not found"):
        build_corpus(
            tmp_path / "t", params.model_copy(update={"texts": tmp_path / "nowhere"}), tiny_params.audio, processes=1
        )
    assert "not found" in (tmp_path / "s" / REJECTED).read_text()
