"""Inputs of people who do this job, which failed when tried: tables, manifests, pictures and names from outside."""

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from batch_helpers import cli, write_batch
from PIL import Image

from stereotalker.avatar.fallback_crops import fallback_crops, without_bars
from stereotalker.avatar.names import safe_id
from stereotalker.errors import UserError
from stereotalker.media.photos import check_photo, is_picture, read_photo
from stereotalker.params import ROOT, load_params
from stereotalker.production.manifest import read_manifest
from stereotalker.runtime.environment import set_library_defaults
from stereotalker.runtime.home import Home

CASES = Path(os.environ.get("STEREOTALKER_CASES", ROOT.parent / "shared" / "cases"))

# ---- manifests ----


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def faults(path):
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    return str(caught.value).splitlines()


ONE = "id,avatar,script\na,ava,Good morning\n"


@pytest.mark.parametrize(
    "table",
    [
        ONE,
        ONE.replace(",", ";"),
        ONE.replace(",", "\t"),
        "sep=;\n" + ONE.replace(",", ";"),
        '"sep=,"\r\n' + ONE.replace("\n", "\r\n"),
        ONE + ",,\n , ,\n",
        ONE.replace("id,avatar,script", " ID , Avatar,SCRIPT "),
        ONE.encode("utf-8-sig"),
        ONE.encode("utf-16"),
        b"\xfe\xff" + ONE.encode("utf-16-be"),
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path, table):
    [clip] = read_manifest(write(tmp_path, "b.csv", table)).clips
    assert (clip.id, clip.avatar, clip.script) == ("a", "ava", "Good morning")


def test_a_decimal_comma_is_told_how_to_be_written(tmp_path):
    [fault] = faults(write(tmp_path, "b.csv", "id;avatar;script;fps\na;ava;hi;12,5\n"))
    assert "got '12,5'" in fault and fault.endswith("write 12.5")


def test_a_row_with_too_many_cells_says_what_to_do(tmp_path):
    [fault] = faults(write(tmp_path, "b.csv", "id,avatar,script\na,ava,Hello, you\n"))
    assert "row 2, clip 'a'" in fault and "4 in place of 3; put texts with ',' in quotes" in fault


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_of_jsonl_ends_at_the_newline_alone(tmp_path, separator):
    script = f"First.{separator}Second."
    row = json.dumps({"id": "a", "avatar": "ava", "script": script}, ensure_ascii=False)
    assert [clip.script for clip in read_manifest(write(tmp_path, "b.jsonl", row + "\n")).clips] == [script]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (
            "a.yaml",
            "clips:\n- {id: a, avatar: ava, script: hi}\nclips: []\n",
            "line 3: the key 'clips' stands in line 1",
        ),
        ("b.yaml", "clips:\n- id: a\n  avatar: ava\n  script: One\n  script: Two\n", "line 5: the key 'script'"),
        ("c.yaml", "defaults: {width: 64, width: 128}\nclips:\n- {id: a, avatar: ava, script: hi}\n", "'width'"),
        (
            "d.jsonl",
            '{"id": "a", "avatar": "ava", "script": "1", "script": "2"}',
            "row 1: the key 'script' stands twice",
        ),
        ("e.csv", "id,avatar,script,Script\na,ava,1,2\n", "the column 'script' stands twice"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, name, text, complaint):
    [fault] = faults(write(tmp_path, name, text))
    assert complaint in fault


def test_a_key_that_is_no_text_is_refused(tmp_path):
    assert faults(write(tmp_path, "b.yaml", "clips:\n- {id: a, avatar: ava, script: hi}\n? [x]\n: y\n"))


def test_texts_that_yaml_reads_as_something_else_are_named_as_they_are_written(tmp_path):
    rows = "\n".join(f"- {{id: {name}, avatar: ava, script: Hi}}" for name in ("no", "007", "2025-11-28", "12:30"))
    found = faults(write(tmp_path, "b.yaml", f"clips:\n{rows}\n"))
    assert [fault.rpartition("put it in quotes: ")[2] for fault in found] == [
        '"no"',
        '"007"',
        '"2025-11-28"',
        '"12:30"',
    ]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (
            "a.jsonl",
            '{"id": "a", "avatar": "ava", "script": "Hello\\u0000"}',
            "script holds the control character U+0000",
        ),
        ("b.jsonl", '{"id": "a", "avatar": "ava", "script": "Hi \\ud83d"}', "script holds half a character (U+D83D)"),
        ("c.jsonl", '{"id": "a", "avatar": "ava", "script": "x", "camera": {"kind": "\\u0007"}}', "U+0007"),
        ("d.yaml", "clips:\n- {id: a, avatar: ava,\n   script: a\x0bb}\n", "line 3, column 13: the character U+000B"),
    ],
)
def test_characters_that_nobody_can_speak_are_refused_with_their_place(tmp_path, name, text, complaint):
    [fault] = faults(write(tmp_path, name, text))
    assert complaint in fault


def test_a_faulty_deadline_is_named_once_and_a_date_alone_means_its_first_minute(tmp_path):
    table = "id,avatar,script,deadline\na,ava,hi,28.11.2025 06:30\nb,ava,hi,6:30\n"
    assert all("expected HH:MM, or YYYY-MM-DD HH:MM, got" in fault for fault in faults(write(tmp_path, "b.csv", table)))
    [clip] = read_manifest(write(tmp_path, "c.csv", "id,avatar,script,deadline\na,ava,hi,2026-12-01\n")).clips
    assert clip.deadline == datetime(2026, 12, 1)


def test_names_that_unicode_composes_otherwise_are_found(tmp_path):
    (tmp_path / "Mu\u0308ller.wav").write_bytes(b"")
    [clip] = read_manifest(write(tmp_path, "b.yaml", "clips: [{id: a, avatar: ava, audio: M\u00fcller.wav}]")).clips
    assert clip.recording.is_file()


def test_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, "b.yaml", "clips: [{id: a, avatar: me.jfif, audio: '10:30 call.wav', background: wall.avif}]")
    monkeypatch.chdir(tmp_path)
    [clip] = read_manifest(Path("b.yaml")).clips
    assert clip.recording == tmp_path / "10:30 call.wav"
    assert (clip.avatar, clip.background) == (str(tmp_path / "me.jfif"), str(tmp_path / "wall.avif"))


def test_a_manifest_whose_path_is_not_utf8_is_refused_in_one_line(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xf6lder"))
    folder.mkdir()
    [fault] = faults(write(folder, "b.yaml", "clips: []"))
    assert "is not UTF-8; rename the file or its folder" in fault


def test_the_cases_of_others_are_read_or_refused_in_few_lines():
    if not CASES.is_dir():
        pytest.skip(f"no cases at {CASES}; set STEREOTALKER_CASES to their folder")
    read, refused = [], {}
    for path in sorted((CASES / "manifests").iterdir()):
        try:
            read += [path.name] if read_manifest(path).clips else []
        except UserError as error:
            refused[path.name] = len(str(error).splitlines())
    assert len(read) == 9 and "excel_u16.csv" in read and "umlaut2.yaml" in read
    assert set(refused) == {
        "deadline.csv", "dup_clips.yaml", "dup_key.yaml", "norway.yaml", "nul.jsonl", "surrogate.jsonl", "vt.yaml",
    } and max(refused.values()) <= 7  # fmt: skip


# ---- pictures ----


def test_the_main_picture_of_a_phone_or_a_scanner_is_read(tmp_path):
    main, other = Image.new("RGB", (80, 60), (200, 40, 40)), Image.new("RGB", (20, 15))
    main.save(tmp_path / "a.mpo", save_all=True, append_images=[other])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    main.copy().save(tmp_path / "a.tiff", save_all=True, append_images=[other.copy()])
    for name in ("a.jpg", "a.tiff"):
        check_photo(tmp_path / name)
        assert read_photo(tmp_path / name).shape == (60, 80, 3)
    main.save(tmp_path / "a.gif", save_all=True, append_images=[other.resize(main.size)])
    with pytest.raises(UserError, match="holds 2 frames"):
        check_photo(tmp_path / "a.gif")


def test_floating_point_pictures_are_refused_with_what_to_do(tmp_path):
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "a.tiff")
    for read in (read_photo, check_photo):
        with pytest.raises(UserError, match="export it with 8 or 16 bits"):
            read(tmp_path / "a.tiff")


@pytest.mark.parametrize("name", ["me.jfif", "me.AVIF", "me.heic", "me.HEIF", "me.jpe", "me.mpo"])
def test_the_endings_of_pictures_are_known(name):
    assert is_picture(name)


def test_heic_is_read_or_says_what_to_install(tmp_path):
    (tmp_path / "me.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UserError, match=r"\[heic\]|damaged|not a picture"):
        read_photo(tmp_path / "me.heic")


def test_bars_are_cut_off_and_backgrounds_are_kept():
    rng = np.random.default_rng(0)
    inner = rng.integers(0, 255, (60, 40, 3)).astype(np.uint8)
    boxed = np.full((100, 90, 3), 20, np.uint8)
    boxed[30:90, 25:65] = inner
    assert np.array_equal(without_bars(boxed), inner) and np.array_equal(without_bars(inner), inner)
    plain = np.full((50, 50, 3), 255, np.uint8)
    assert without_bars(plain).shape == plain.shape  # of one color throughout
    crops = list(fallback_crops(np.concatenate([boxed, boxed[:, :1].repeat(200, 1)], 1)))
    assert crops[0].shape == inner.shape  # and 60 x 40 px is not long enough for squares


def test_a_panorama_is_searched_in_squares_from_its_middle():
    picture = np.random.default_rng(0).integers(0, 255, (50, 210, 3)).astype(np.uint8)
    crops = list(fallback_crops(picture))
    assert len(crops) == 5 and all(crop.shape == (50, 50, 3) for crop in crops)
    assert np.array_equal(crops[0], picture[:, 80:130])


# ---- names, homes, environments ----


def test_no_two_names_share_an_id():
    names = ["Привет", "你好", "会议", "Ünal", "nal", "take 1", "take-1", "take_1", "", "...", "a" * 200, "a" * 201]
    ids = [safe_id(name) for name in names]
    assert len(set(ids)) == len(ids) and safe_id("take-1") == "take-1" and safe_id("Ünal").startswith("nal-")


def test_two_recordings_of_one_name_do_not_replace_each_other(tmp_path, home, monkeypatch):
    from stereotalker.cli.produce import _write_manifest

    monkeypatch.chdir(tmp_path)
    paths = [
        _write_manifest(tmp_path / "manifests", "ava", Path(day) / "take1.wav", None, None, None)
        for day in ("mon", "tue", "mon")
    ]
    assert paths[0] == paths[2] != paths[1]


def test_a_home_with_a_question_mark_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("STEREOTALKER_HOME", str(tmp_path / "what? now"))
    with pytest.raises(UserError, match="question mark"):
        Home.default()


def test_params_of_another_project_are_refused_in_one_short_line(tmp_path):
    path = write(tmp_path, "params.yaml", "prepare: {split: 0.2}\ntrain: {lr: 0.1}\n")
    with pytest.raises(UserError, match="is not one of StereoTalker's; name one with --params") as caught:
        load_params(path)
    assert len(str(caught.value)) < 200
    text = (ROOT / "params.yaml").read_text()
    with pytest.raises(UserError, match="the key 'scale' stands in line"):
        load_params(write(tmp_path, "twice.yaml", text + "\nscale: tiny\n"))


def test_this_machine_is_left_out_of_proxies(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "studio.example")
    monkeypatch.delenv("no_proxy", raising=False)
    set_library_defaults()
    assert os.environ["NO_PROXY"] == "studio.example,localhost,127.0.0.1,::1"
    assert os.environ["no_proxy"] == "localhost,127.0.0.1,::1"


def test_modules_of_the_working_folder_are_not_imported_by_child_processes(tmp_path, monkeypatch):
    from stereotalker.audio.text_to_speech import Voice, speak_in_fresh_process

    for name in ("tokenize", "random", "wave"):
        write(tmp_path, f"{name}.py", "print('not ours')\n")
    monkeypatch.chdir(tmp_path)
    assert speak_in_fresh_process("Hello there.", Voice()).words[0].text == "Hello"


def test_scripts_are_utf8_whatever_the_locale_is(tmp_path, home):
    import subprocess
    import sys

    batch = write_batch(tmp_path, [{"id": "a", "script": "Schöne Tage"}])
    batch.write_bytes(batch.read_text(encoding="utf-8").encode().decode("unicode_escape").encode("utf-8"))
    code = "import sys, pathlib\nfrom stereotalker.production.manifest import read_manifest\n"
    code += "sys.stdout.buffer.write(read_manifest(pathlib.Path(sys.argv[1])).clips[0].script.encode())"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(batch)], capture_output=True, env=environment)
    assert done.stdout.decode() == "Schöne Tage", done.stderr.decode()


def test_a_dry_run_in_a_new_home_makes_nothing(tmp_path, home_template):
    new = Home(tmp_path / "new")
    batch = write(tmp_path, "b.yaml", "clips: [{id: a, avatar: ava, script: hi}]")
    assert cli("produce", batch, "--out", tmp_path / "out", "--dry-run", home=new).returncode == 0
    single = ["--avatar", "ava", "--script", "hi"]
    assert cli("produce", *single, "--out", tmp_path / "out", "--dry-run", home=new).returncode == 0
    assert not (tmp_path / "out").exists() and not new.root.exists()
