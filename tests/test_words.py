"""The words of scripts: as they are written, whatever espeak-ng makes of them, in the order of their times."""

import pytest

from stereotalker.audio.text_to_speech import Voice, speak, words_of

# Language, script, and its words. Where the words are the script's own parts, only their separator is given.
SCRIPTS = [
    ("en-us", "I can't, don't, won't.", ["I", "can't", "don't", "won't"]),
    ("en-us", "You shouldn't've said it wasn't ours.", "You shouldn't've said it wasn't ours"),
    ("en-us", "It isn’t mine, and they’re late.", "It isn’t mine and they’re late"),
    ("en-us", "I'm sure he'd've come if she'll go.", "I'm sure he'd've come if she'll go"),
    ("en-us", "Y'all ain't seen nothin' yet.", "Y'all ain't seen nothin yet"),
    ("en-us", "The O'Neill family's dogs' beds", "The O'Neill family's dogs beds"),
    ("en-us", "Let's rock 'n' roll!", "Let's rock n roll"),
    ("en-us", "That's $1,234.50 in total.", "That's $1,234.50 in total"),
    ("en-us", "or pay £5.99 now.", "or pay £5.99 now"),
    ("en-us", "Version 2.0.1 costs 3,000,000 dollars.", "Version 2.0.1 costs 3,000,000 dollars"),
    ("en-us", "Twenty-one is 21, 1st is first.", "Twenty-one is 21 1st is first"),
    ("en-us", "It rose 4.5% in Q3 2025.", "It rose 4.5% in Q3 2025"),
    ("en-us", "We made 50% more & lost 3 - nothing.", "We made 50% more & lost 3 nothing"),
    ("en-us", "Add 1/2 cup, then 3/4 mile.", "Add 1/2 cup then 3/4 mile"),
    ("en-us", "5 + 3 = 8", "5 + 3 = 8"),
    ("en-us", "Call 555-0199 now.", "Call 555-0199 now"),
    ("en-us", "We met at 10:30 on 2024-05-06.", "We met at 10:30 on 2024-05-06"),
    ("en-us", "From 1939 to 1945, then the 80s.", "From 1939 to 1945 then the 80s"),
    ("en-us", "See you on 11/29/2026 at 7pm.", "See you on 11/29/2026 at 7pm"),
    ("en-us", "Visit https://example.com/a?b=1 today.", "Visit https://example.com/a?b=1 today"),
    ("en-us", "Mail bob@example.org now, or see example.org.", "Mail bob@example.org now or see example.org"),
    ("en-us", "Call me @ the café #1", "Call me @ the café #1"),
    ("en-us", "Dr. J. R. Smith is here.", "Dr J R Smith is here"),
    ("en-us", "Mr. and Mrs. Smith, Ph.D.", "Mr and Mrs Smith Ph.D"),
    ("en-us", "NASA, the U.S. and the EU", "NASA the U.S and the EU"),
    ("en-us", "A/B testing and/or c++", "A/B testing and/or c++"),
    ("en-us", "A state-of-the-art e-mail client", "A state-of-the-art e-mail client"),
    ("en-us", "It is déjà vu again.", "It is déjà vu again"),
    ("en-us", "A naïve café in São Paulo", "A naïve café in São Paulo"),
    ("en-us", "Of the people, by the people, for the people", "Of the people by the people for the people"),
    ("en-us", "I am going to have to go.", "I am going to have to go"),
    ("en-us", "Wait... what?! Really?", "Wait what Really"),
    ("en-us", "He said “hello” and 'bye'.", "He said hello and bye"),
    ("en-us", "(Whisper) [louder] {stop} <now>", "Whisper louder stop now"),
    ("en-us", "One — two – three; four: five", "One two three four five"),
    ("en-us", "line one\nline two\n\nline three", "line one line two line three"),
    ("en-us", "  spaces   and\ttabs  ", "spaces and tabs"),
    ("en-us", "*bold* and _soft_ `code`", "bold and soft code"),
    ("en-us", "A family 👨‍👩‍👧‍👦 here.", "A family 👨‍👩‍👧‍👦 here"),
    ("en-us", "Nice 👍🏽 work 🇩🇪!", "Nice 👍🏽 work 🇩🇪"),
    ("en-us", "the of an to it", "the of an to it"),
    ("en-gb", "It's half past 6, isn't it?", "It's half past 6 isn't it"),
    ("de", "Schöne Tage in München am 3. Mai.", "Schöne Tage in München am 3 Mai"),
    ("de", "Am 24.12.2025 um 18:30 Uhr kostet's 9,99 €.", "Am 24.12.2025 um 18:30 Uhr kostet's 9,99 €"),
    ("de", "Wie geht's dir, Jürgen?", "Wie geht's dir Jürgen"),
    ("de", "„Guten Tag“, sagte der Übersetzer.", "Guten Tag sagte der Übersetzer"),
    ("fr-fr", "Il n'y a pas l'été aujourd'hui.", "Il n'y a pas l'été aujourd'hui"),
    ("fr-fr", "Je suis à l’hôtel.", "Je suis à l’hôtel"),
    ("fr-fr", "J'ai mangé à l'école, n'est-ce pas ?", "J'ai mangé à l'école n'est-ce pas"),
    ("fr-fr", "« Ça va très bien », dit-elle.", "Ça va très bien dit-elle"),
    ("es", "¿Cómo estás? ¡Bien!", "Cómo estás Bien"),
    ("es", "¿Qué hora es? Son las 3:15.", "Qué hora es Son las 3:15"),
    ("it", "L'amico dell'uomo c'è.", "L'amico dell'uomo c'è"),
    ("pl", "Zażółć gęślą jaźń", "Zażółć gęślą jaźń"),
    ("tr", "Ünlü, çok güzel bir gün.", "Ünlü çok güzel bir gün"),
    ("ru", "Привет, как дела?", "Привет как дела"),
    ("ru", "Год 2025, это 100%.", "Год 2025 это 100%"),
    ("hi", "मैं ठीक हूँ और आप?", "मैं ठीक हूँ और आप"),
    ("ar", "مرحبا بالعالم", "مرحبا بالعالم"),
    ("ko", "사랑해요 친구야", "사랑해요 친구야"),
    ("cmn", "今天天气很", ["今", "天", "天", "气", "很"]),
    ("ja", "これはテストです。", ["これはテストです"]),
]


def test_there_are_sixty_scripts_and_six_languages():
    assert len(SCRIPTS) >= 60 and len({language for language, _, _ in SCRIPTS}) >= 6


@pytest.mark.parametrize(("language", "script", "expected"), SCRIPTS)
def test_the_words_of_a_script_are_those_that_are_written(language, script, expected):
    words = speak(script, Voice(language)).words
    assert [word.text for word in words] == (expected.split() if isinstance(expected, str) else expected)
    assert all(word.start < word.end for word in words)
    assert all(a.end <= b.start + 1e-9 for a, b in zip(words, words[1:], strict=False))


def test_a_word_that_is_spelled_out_lasts_as_long_as_its_parts():
    """Times of "$5", in two parts, and of "now"."""
    words = words_of("$5 now", [(0.0, 0, 1), (0.4, 1, 1), (0.9, 3, 3)], 1.5)
    assert [(word.text, word.start, word.end) for word in words] == [("$5", 0.0, 0.9), ("now", 0.9, 1.5)]


def test_words_that_are_spoken_as_one_share_its_time():
    """Times of "of the", as one, and of "sea"."""
    words = words_of("of the sea", [(0.0, 0, 2), (0.5, 7, 3)], 1.0)
    assert [(word.text, round(word.start, 3)) for word in words] == [("of", 0.0), ("the", 0.2), ("sea", 0.5)]


def test_a_text_without_words_has_none():
    assert words_of("", [], 1.0) == words_of(" ... ", [(0.0, 1, 3)], 1.0) == ()
