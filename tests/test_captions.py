"""Captions: the rules of the trade, files that players take, and letters in the pictures."""

import html
import http.server
import io
import json
import shutil
import subprocess
import threading
from functools import partial

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stereotalker.audio.text_to_speech import Voice
from stereotalker.audio.voices import find_voice
from stereotalker.audio.written_words import written_words
from stereotalker.errors import ClipError, UserError
from stereotalker.media.audio_files import FFMPEG
from stereotalker.media.burnt_captions import BurntCaptions, Caption, check_font, draw_captions
from stereotalker.media.stereo import Stereo
from stereotalker.production.captions import (
    MAX_LINE,
    columns,
    faults,
    make_captions,
    to_files,
    to_srt,
    to_vtt,
)
from stereotalker.production.clip_speech import clip_captions, speech_notes
from stereotalker.production.manifest import Captions, single_clip
from stereotalker.records import Speech, Timed

# Four scripts in each of five languages, spoken at a rate that can be read.
SCRIPTS = {
    "en-us": [
        'Good evening, and welcome to the show. "Is that so?" she asked. Yes! It is the truth, and nothing else.',
        "On 3 May 2024, Dr. Smith paid $1,234.50 for the old boat, which nobody else wanted; the harbour was empty.",
        "The man who had walked all the way from the old town to the new harbour sat down and looked at the sea.",
        "No. Never. We shall see what tomorrow brings, when the others come back from the mountains with their bags.",
    ],
    "de": [
        "Guten Abend und herzlich willkommen. Heute sprechen wir über das Wetter, das seit Wochen wunderbar ist.",
        "Wirklich? Ja, so ist es: Die Leute gehen gern am Fluss entlang, und die Kinder spielen im Garten.",
        "Er kam spät nach Hause, setzte sich an den Tisch und las den Brief, den sie ihm geschrieben hatte.",
        "Nein. Das Brot ist frisch, der Kaffee ist heiß, und draußen singt ein Vogel in den alten Bäumen.",
    ],
    "es": [
        "Buenas noches y bienvenidos. Hoy hablamos del tiempo, que ha sido maravilloso durante semanas.",
        "¿De verdad? Sí, es la verdad y nada más que la verdad, dijo el hombre que venía del puerto.",
        "La casa está lejos del mar, pero desde la ventana se ven los barcos que salen por la mañana.",
        "No. El pan es fresco, el café está caliente y en la calle canta un pájaro que nadie ve.",
    ],
    "ru": [
        "Добрый вечер и добро пожаловать. Сегодня мы говорим о погоде, которая давно хороша.",
        "Правда? Да, это правда, сказал человек, который пришёл из порта и сел у окна.",
        "Дом стоит далеко от моря, но из окна видны корабли, которые уходят рано утром.",
        "Нет. Хлеб свежий, кофе горячий, а на улице поёт птица, которую никто не видит.",
    ],
    "cmn": [
        "晚上好，欢迎收看。今天我们谈谈天气，几个星期以来一直很好。",
        "这是真的吗？是的，这是真的，我们都很高兴，因为明天大家都会回来。",
        "他很晚才回家，坐在桌子旁边，看她写给他的信。",
        "不。面包很新鲜，咖啡很热，外面有一只鸟在唱歌。",
    ],
}
CLIPS = [(language, text) for language, texts in SCRIPTS.items() for text in texts]


@pytest.mark.parametrize(("language", "text"), CLIPS)
def test_captions_of_spoken_scripts_follow_the_rules_and_ffmpeg_reads_them(language, text, tmp_path):
    voice = find_voice("", language, 140) if language == "en-us" else Voice(language, rate=140)
    spoken = voice.speak(text)
    seconds = len(spoken.samples) / spoken.sample_rate
    captions = make_captions(spoken.words, text, seconds)
    assert faults(captions, seconds) == []
    letters = [c for c in text if c.isalnum()]
    assert [c for caption in captions for c in caption.text if c.isalnum()] == letters  # nothing lost, nothing twice
    for ending, content in to_files(captions).items():
        path = tmp_path / f"captions.{ending}"
        path.write_text(content, encoding="utf-8")
        done = subprocess.run([FFMPEG, "-v", "error", "-i", path, "-f", "srt", "-"], capture_output=True, check=True)
        read = done.stdout.decode()
        assert not done.stderr and read.count("-->") == len(captions)
        lines = [line for line in read.splitlines() if "-->" not in line and not line.isdigit()]
        assert [c for c in "".join(lines) if c.isalnum()] == letters


_PAGE = """<!DOCTYPE html><meta charset="utf-8"><body><video>{tracks}</video><pre id="out"></pre><script>
const list = [...document.querySelectorAll("track")];
for (const track of list) track.track.mode = "hidden";
const loaded = t => new Promise(done => {{ t.onload = () => done(t); t.onerror = () => done(t); }});
Promise.all(list.map(loaded)).then(all => {{
  const cues = all.map(t => t.readyState == 2
    ? [...t.track.cues].map(c => [c.startTime, c.endTime, c.getCueAsHTML().textContent]) : null);
  document.getElementById("out").textContent = JSON.stringify(cues);
}});
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_chromium_reads_the_captions(tmp_path, served):
    """All twenty clips at once: texts and times, and the times of words inside, which a browser takes out."""
    expected, tracks = [], ""
    for k, (language, text) in enumerate(CLIPS):
        spoken = Voice(language, rate=140).speak(text)
        captions = make_captions(spoken.words, text, len(spoken.samples) / spoken.sample_rate)
        (tmp_path / f"{k}.vtt").write_text(to_vtt(captions), encoding="utf-8")
        tracks += f'<track kind="captions" src="{k}.vtt">'
        expected.append([[round(c.start, 3), round(c.end, 3), c.text] for c in captions])
    (tmp_path / "page.html").write_text(_PAGE.format(tracks=tracks), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    address = served(tmp_path) + "/page.html"
    command = ["chromium", *options, "--virtual-time-budget=20000", "--dump-dom", address]
    page = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()
    shown = json.loads(html.unescape(page.split('<pre id="out">')[1].split("</pre>")[0]))
    assert len(shown) == 20 and all(shown)
    for cues, wanted in zip(shown, expected, strict=True):
        assert [cue[2] for cue in cues] == [caption[2] for caption in wanted]
        assert np.allclose([cue[:2] for cue in cues], [caption[:2] for caption in wanted], atol=0.001)


@pytest.fixture
def served():
    """Serves a folder on this machine: folder -> its address."""
    servers = []

    def serve(folder) -> str:
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()


def test_sentences_are_parted_where_they_end():
    text = "It was late. We went home, and slept until noon."
    plain = text.lower().replace(".", "").replace(",", "").split()
    slow = [Timed(word, k * 1.2, k * 1.2 + 1.05) for k, word in enumerate(plain)]
    assert [c.text for c in make_captions(slow, text, 14.0)] == [
        "It was late.",
        "We went home,",
        "and slept until noon.",
    ]
    fast = [Timed(word, k * 0.4, k * 0.4 + 0.35) for k, word in enumerate(plain)]
    assert all(c.text.endswith((".", ",")) for c in make_captions(fast, text, 6.0))


def test_a_caption_stays_until_it_can_be_read_but_not_into_the_next():
    words = [Timed("Congratulations", 0.0, 0.3), Timed("everybody", 0.3, 0.5)]
    alone = make_captions(words, "Congratulations, everybody!", 10.0)
    assert alone[0].end == pytest.approx(27 / 17) and faults(alone, 10.0) == []
    cut = make_captions(words, "Congratulations, everybody!", 0.6)
    assert cut[0].end == 0.6
    assert any("columns a second" in fault for fault in faults(cut, 0.6))  # a caption longer than its time is told


def test_the_checker_finds_each_fault():
    word = Timed("word", 0.0, 1.0)

    def caption(start, end, *texts):
        return Caption(start, end, tuple((word,) * len(text.split()) for text in texts), texts)

    fine = caption(0.0, 3.0, "two words")
    for wrong, complaint in (
        (caption(0.0, 3.0, "a b", "c d", "e f"), "3 lines"),
        (caption(0.0, 6.9, "a " * 22), "a line of 44 columns"),
        (caption(0.0, 0.9, "a b"), "0.90 s"),
        (caption(0.0, 7.1, "a b"), "7.10 s"),
        (caption(0.0, 1.0, "eighteen character"), "18.0 columns a second"),
        (caption(0.0, 3.0, "alone"), "a word alone"),
        (caption(0.0, 3.0, "two words", "alone"), "a word alone in a line"),
        (caption(8.0, 11.0, "two words"), "it ends behind the clip"),
    ):
        assert any(complaint in fault for fault in faults([wrong], 10.0))
    assert faults([fine], 10.0) == [] and faults([], 10.0) == []
    assert faults([fine, caption(2.0, 5.0, "two words")], 10.0) == ["captions 1 and 2 overlap"]


def test_words_get_their_capitals_and_signs_back():
    words = [Timed(w, float(k), k + 1.0) for k, w in enumerate(["he", "said", "no", "uh", "then", "1", "234"])]
    shown = [w.text for w in written_words(words, '"He said: no" – then, (1,234).')]
    assert shown == ['"He', "said:", 'no"', "–", "then,", "(1,234)."] or shown[:3] == ['"He', "said:", 'no" –']
    assert written_words((), "Nobody says this.") == []
    assert [w.text for w in written_words([Timed("", 0.0, 0.1), Timed("so", 0.1, 0.2)], "So!")] == ["So!"]
    unknown = written_words([Timed("one", 0.0, 1.0)], "One " + "not aligned at all, a whole passage of words")
    assert [w.text for w in unknown] == ["One"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcdefghij,.!? -", min_size=1, max_size=14), min_size=0, max_size=60), st.floats(0.05, 1.5))
def test_any_text_gives_captions_that_do_not_overlap(texts, pace):
    words = [Timed(t, k * pace, (k + 1) * pace) for k, t in enumerate(texts) if any(c.isalnum() for c in t)]
    seconds = len(texts) * pace + 1
    captions = make_captions(words, " ".join(w.text for w in words), seconds)
    assert all(a.end <= b.start for a, b in zip(captions, captions[1:], strict=False))
    assert all(c.start < c.end for c in captions)
    assert "".join(c for caption in captions for c in caption.text if c.isalnum()) == "".join(
        c for w in words for c in w.text if c.isalnum()
    )


def test_webvtt_escapes_and_marks_words_within_their_caption():
    words = [Timed("A", 1.0, 1.4), Timed("B", 1.4, 2.0), Timed("C", 2.0, 2.5)]
    text = to_vtt(make_captions(words, "A <B> C", 5.0))
    assert text.startswith("WEBVTT\n\n00:00:00.750 --> ")
    assert "<00:00:01.000>A <00:00:01.400>&lt;B&gt; <00:00:02.000>C" in text
    assert to_srt(()) == "" and to_files(()) == {}


def test_a_long_word_is_shown_whole_and_told():
    words = [Timed("a" * 60, 0.0, 3.0), Timed("b", 3.0, 3.5)]
    captions = make_captions(words, "a" * 60 + " b", 5.0)
    assert "".join(c.text for c in captions).replace("\n", "").replace(" ", "") == "a" * 60 + "b"
    assert any("a line of 60 columns" in fault for fault in faults(captions, 5.0))
    assert columns("你好") == 4 and columns("e\u0301") == 1 and MAX_LINE == 42


def shown(text="Hello there", start=0.2, end=0.6):
    words = tuple(Timed(w, start + 0.2 * k, start + 0.2 * k + 0.2) for k, w in enumerate(text.split()))
    return [Caption(start, end, (words,), (text,))]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("position", ["bottom", "top"])
def test_letters_stand_within_the_safe_area_while_their_caption_is_shown(channels, position):
    frames = np.full((20, 120, 160, channels), 90, np.uint8)
    frames[..., 3:] = 0
    style = BurntCaptions(position=position, margin=0.1)
    drawn = np.concatenate(list(draw_captions([frames[:7], frames[7:]], shown(), style, 25.0, None)))
    changed = (drawn != frames).any(-1)
    assert [bool(f.any()) for f in changed] == [0.2 <= (k + 0.5) / 25 < 0.6 for k in range(20)]
    rows, where = np.flatnonzero(changed.any((0, 2))), np.flatnonzero(changed.any((0, 1)))
    assert where.min() > 8 and where.max() < 152
    assert (rows.min() >= 60 and rows.max() <= 110) if position == "bottom" else (rows.min() >= 10 and rows.max() < 60)
    assert frames.max() == 90  # what is in the store stays as it was
    if channels == 4:
        assert drawn[..., 3].max() == 255


def test_the_spoken_word_is_coloured():
    frames = np.zeros((20, 120, 160, 3), np.uint8)
    drawn = np.concatenate(list(draw_captions([frames], shown(), BurntCaptions(highlight=True, size=0.1), 25.0, None)))
    yellow = (drawn[..., 0] > 200) & (drawn[..., 2] < 80)
    first, second = (np.flatnonzero(yellow[k].any(0)).mean() for k in (7, 12))
    assert first < 80 < second
    plain = np.concatenate(list(draw_captions([frames], shown(), BurntCaptions(), 25.0, None)))
    assert not ((plain[..., 0] > 200) & (plain[..., 2] < 80)).any()


def test_the_first_word_of_arabic_stands_on_the_right():
    frames = np.zeros((20, 120, 160, 3), np.uint8)
    text = "مساء الخير"
    style = BurntCaptions(highlight=True, size=0.1)
    drawn = np.concatenate(list(draw_captions([frames], shown(text), style, 25.0, None)))
    yellow = (drawn[..., 0] > 200) & (drawn[..., 2] < 80)
    first, second = (np.flatnonzero(yellow[k].any(0)).mean() for k in (7, 12))
    assert second < 80 < first


@pytest.mark.parametrize("layout", ["side-by-side", "over-under"])
def test_both_eyes_see_the_same_letters(layout):
    wide = layout == "side-by-side"
    frames = np.zeros((20, 120, 320, 3) if wide else (20, 240, 160, 3), np.uint8)
    drawn = np.concatenate(list(draw_captions([frames], shown(), BurntCaptions(), 25.0, Stereo(layout=layout))))
    left, right = np.split(drawn, 2, axis=2 if wide else 1)
    assert np.array_equal(left, right) and left.any()


def test_letters_shrink_until_a_line_fits():
    frames = np.zeros((20, 96, 96, 3), np.uint8)
    drawn = np.concatenate(list(draw_captions([frames], shown("one two three"), BurntCaptions(size=0.15), 25.0, None)))
    columns_drawn = np.flatnonzero(drawn.any((0, 1, 3)))
    assert columns_drawn.min() > 0 and columns_drawn.max() < 95


def test_a_font_without_the_letters_and_a_file_that_is_no_font_are_refused(tmp_path):
    with pytest.raises(ClipError, match="the font DejaVuSans-Bold.ttf has no 你 好; name one that does"):
        check_font("你好", BurntCaptions())
    (tmp_path / "font.ttf").write_bytes(b"no font")
    with pytest.raises(ClipError, match="captions.font .*font.ttf: .*expected a TrueType or OpenType file"):
        check_font("Hello", BurntCaptions(font=tmp_path / "font.ttf"))
    with pytest.raises(ClipError, match="captions.font .*gone.ttf"):
        check_font("Hello", BurntCaptions(font=tmp_path / "gone.ttf"))
    check_font("Grüße, Привет, مرحبا", BurntCaptions())


@pytest.mark.parametrize("size", [(128, 128), (256, 144), (144, 256), (480, 270), (256, 256)])
@pytest.mark.parametrize("letters", [0.055, 0.12])
def test_burnt_captions_of_a_clip_have_one_size_and_lie_within_the_picture(size, letters):
    text = "Good morning, dear friends of the wonderful wide sea, and welcome. Yes, we really do!"
    plain = [w for w in text.replace(",", "").replace(".", "").replace("!", "").split()]
    words = tuple(Timed(w, 0.4 * k, 0.4 * k + 0.35) for k, w in enumerate(plain))
    clip = single_clip(
        "a", {"script": text, "width": size[1], "height": size[0], "captions": {"burn": True, "size": letters}}
    )
    speech = Speech(np.zeros(16000 * 8, np.float32), -20.0, words)
    captions = clip_captions(clip, speech, are_burnt=True)
    frames = np.zeros((int(8 * 5), *size, 3), np.uint8)
    drawn = np.concatenate(list(draw_captions([frames], captions, clip.captions, 5.0, None)))
    where = np.flatnonzero(drawn.any((0, 1, 3)))
    assert where.min() >= 1 and where.max() <= size[1] - 2
    pictures = (drawn[int((caption.start + 0.1) * 5) + 1] for caption in captions)
    heights = [p.any((1, 2)).sum() / len(c.lines) for c, p in zip(captions, pictures, strict=True)]
    assert max(heights) < 1.9 * min(heights)
    assert [c for caption in captions for c in caption.text if c.isalnum()] == [c for c in text if c.isalnum()]


def test_speakers_who_stop_part_captions():
    """As in: And so, my fellow Americans - ask not what your country can do for you."""
    plain = "And so my fellow Americans ask not what your country can do for you".split()
    starts = [0.3, 0.6, 0.9, 1.1, 1.4, 3.2, 4.0, 5.4, 5.7, 5.9, 6.3, 6.5, 6.7, 6.9]
    words = [Timed(w, start, start + 0.25) for w, start in zip(plain, starts, strict=True)]
    captions = make_captions(words, "And so, my fellow Americans ask not what your country can do for you.", 8.0)
    assert captions[0].text == "And so, my fellow Americans"


def test_numbers_with_a_full_stop_end_no_sentence():
    plain = "Am 3 4 2026 zahlten wir alles".split()
    words = [Timed(w, 0.4 * k, 0.4 * k + 0.35) for k, w in enumerate(plain)]
    assert len(make_captions(words, "Am 3. 4. 2026 zahlten wir alles.", 4.0)) == 1


@pytest.mark.parametrize(
    ("captions", "complaint"),
    [
        ("burned", "captions 'burned'; expected files, burnt, none, or settings such as {burn: true}"),
        ({"highlight": True}, "highlight: only for captions in the pictures; add burn: true"),
        ({"burn": False, "size": 0.1, "font": "a.ttf"}, "font, size: only for captions in the pictures"),
        (3, "captions"),
    ],
)
def test_faulty_settings_of_captions_are_refused(captions, complaint):
    with pytest.raises(UserError, match=complaint):
        single_clip("a", {"script": "Hello.", "captions": captions})


def test_captions_without_words_are_refused():
    with pytest.raises(UserError, match="captions need words: give a transcript, or leave transcript: none out"):
        single_clip("a", {"audio": "a.wav", "transcript": "none", "captions": "files"})


def test_a_row_asks_for_captions_by_a_word_or_with_settings():
    row = {"script": "Hello.", "captions": "files"}
    assert single_clip("a", row).captions == Captions()
    assert single_clip("a", row | {"captions": "burnt"}).captions.burn
    assert single_clip("a", row | {"captions": "none"}).captions is None
    assert single_clip("a", row | {"captions": True}).captions == Captions()
    assert single_clip("a", row | {"captions": {"burn": True, "size": 0.1}}).captions.size == 0.1


def test_a_row_without_known_words_says_that_it_has_no_captions():
    clip = single_clip("a", {"audio": "a.wav", "captions": "files"})
    speech = Speech(np.zeros(16000, np.float32), -20.0)
    assert clip_captions(clip, speech) == ()
    assert speech_notes(clip, speech, None)[0] == "no captions: its words are not known"
    fast = Speech(
        np.zeros(16000, np.float32), -20.0, (Timed("incomprehensibilities", 0.0, 0.5), Timed("yes", 0.5, 0.6))
    )
    spoken = single_clip("a", {"script": "Incomprehensibilities, yes!", "captions": "files"})
    assert "columns a second" in speech_notes(spoken, fast, None)[0]


@pytest.mark.integration
def test_a_batch_delivers_captions_and_burns_them_in(tmp_path, run_batch):
    (tmp_path / "night.yaml").write_text(
        "defaults: {avatar: ava, width: 64, height: 64, fps: 10, voice: espeak}\nclips:\n"
        "- {id: plain, script: Good morning to all of you.}\n"
        "- {id: files, script: Good morning to all of you., captions: files}\n"
        "- {id: burnt, script: Good morning to all of you., captions: {burn: true, size: 0.13}}\n"
    )
    batch = run_batch(tmp_path / "night.yaml")
    assert all(row.state == "done" for row in batch.results)
    names = sorted(path.name for path in (tmp_path / "out" / "captions").iterdir())
    assert names == ["burnt.srt", "burnt.vtt", "files.srt", "files.vtt"]
    srt = (tmp_path / "out" / "captions" / "files.srt").read_text()
    assert "Good morning to all of you." in srt and srt == (tmp_path / "out" / "captions" / "burnt.srt").read_text()
    pictures = {}
    for row in batch.results:
        with av.open(str(tmp_path / "out" / row.video)) as container:
            pictures[row.id] = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(int)
    assert np.abs(pictures["burnt"][:, 40:] - pictures["files"][:, 40:]).max() > 60
    assert np.abs(pictures["burnt"][:, :30] - pictures["files"][:, :30]).mean() < 12
    again = run_batch(tmp_path / "night.yaml")  # found finished: a file that was deleted comes back
    assert [row.rendered for row in again.results] == [0, 0, 0]
    (tmp_path / "out" / "captions" / "files.vtt").unlink()
    run_batch(tmp_path / "night.yaml")
    assert (tmp_path / "out" / "captions" / "files.vtt").is_file()
    text = (tmp_path / "night.yaml").read_text()
    (tmp_path / "night.yaml").write_text(text.replace(", captions: files", ""))
    run_batch(tmp_path / "night.yaml")
    assert not (tmp_path / "out" / "captions" / "files.vtt").exists()
    assert io.StringIO(srt).readline() == "1\n"
