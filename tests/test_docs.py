"""The documentation: what it says of keys, options, files and figures is what the code and the measurements say."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import typer
import yaml

from stereotalker.cli.main import app
from stereotalker.params import ROOT
from stereotalker.production.manifest import Clip

sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import evaluation_tables  # noqa: E402
import reference  # noqa: E402


def _pages(entry) -> list[str]:
    """Every page below an entry of mkdocs.yml's navigation: a page's name, {title: entry}, or a list of entries."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in _pages(part)]


NAVIGATION = _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
PAGES = [path for name in NAVIGATION if (path := ROOT / "docs" / name).is_file()]  # the others are made from the code
HAND_WRITTEN = [ROOT / "README.md", *PAGES]


def test_every_key_of_the_manifest_has_words():
    page = reference.manifest_page()
    for model in reference._models(Clip).values():
        for key in model.model_fields:
            assert re.search(rf"^\| `{key}` \| .+ \| [^|]{{1,}} \|$", page, re.MULTILINE), f"{model.__name__}.{key}"
    assert "`rise`" in page and "`pupils`" in page  # older names


def test_every_number_of_params_yaml_is_listed_with_its_comment():
    page, text = reference.params_page(), (ROOT / "params.yaml").read_text()
    for section, values in yaml.safe_load(text).items():
        if section == "scale":
            continue
        own = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        for key in set(values) - {"tiny", "mini", "studio", "full"}:
            assert f"| `{key}" in own, f"{section}.{key}"
    comments = reference.yaml_comments(text)
    assert comments["produce.worker.idle"] == "seconds without work after which a worker ends"
    assert "five minutes on a large GPU" in comments["dense.training"]  # from the lines above the key


def test_every_option_is_listed():
    page = reference.cli_page()
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        for title, found in {f"{name} {k}": c for k, c in inner.items()}.items() if inner else [(name, command)]:
            section = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
            assert section, title
            for parameter in found.params:
                named = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
                assert f"`{named}`" in section[1], f"{title} {named}"


@pytest.mark.parametrize("name", evaluation_tables.TABLES)
def test_figures_have_as_many_cells_as_columns(name):
    columns, rows = evaluation_tables.TABLES[name]
    for row in rows(evaluation_tables.Figures(ROOT)):
        assert len(row.measured) == len(columns) and bool(row.asked) >= (row.met is not None), row.measure


def test_a_target_that_is_missed_is_called_missed():
    row = evaluation_tables.Row("warp", "at least 2 dB", ("0.2 dB",), {"with text": True, "from sound": False})
    assert row.verdict == "met with text, **missed** from sound"
    assert evaluation_tables.Row("warp", "2", ("1",), False).verdict == "**missed**"
    assert "gain over the warp" in evaluation_tables.table("missed", ROOT)


def test_pages_ask_for_tables_that_there_are():
    asked = [name for page in PAGES for name in re.findall(r"<!-- figures: (.+) -->", page.read_text())]
    assert asked
    for name in asked:
        assert evaluation_tables.table(name, ROOT).startswith("|"), name


def test_the_readme_states_the_measured_figures():
    readme, f = (ROOT / "README.md").read_text(), evaluation_tables.Figures(ROOT)
    stated = [
        f"{f['render', a]:.1f} and {f['render', b]:.1f} dB"
        for a, b in (("psnr_front", "psnr_20deg"), ("psnr_front_wrong_fit", "psnr_20deg_wrong_fit"))
    ]
    stated.append(f"{f['render', 'jaw_correlation']:.2f}, worst {f['render', 'jaw_correlation_worst']:.2f}")
    closed, errors = f["speech", "lips_closed_untranscribed"], f["speech", "wer_en"]
    stated += [f"{100 * closed:.0f} %, {100 * errors:.1f} %", f"{f['speech', 'swing_untranscribed']:.2f} |"]
    stated.append(f"{100 * f['motion', 'drift_spread']:.0f} %, {100 * f['motion', 'drift_mean']:.0f} %")
    stated.append(f"{f['results', 'wall_per_second_256']:.1f} s")
    for figure in stated:
        assert figure in readme, figure


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_files_that_there_are_and_keep_their_lines_short(page):
    text = page.read_text()
    for name in re.findall(r"(?:stereotalker|flows|tasks|examples|benchmarks)/[\w/.-]+\.\w+", text):
        assert (ROOT / name).exists() or "fi.txt" in name, f"{page.name} names {name}"
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        assert len(line) <= 120 or line.lstrip().startswith("|") or fenced, f"{page.name}, line {number}: {len(line)}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("material") is None, reason="the extra [docs] is not installed"
)
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = "".join(path.read_text() for path in tmp_path.rglob("*.html"))
    assert set(re.findall(r"https?://[\w.-]+", pages)) <= {"http://www.w3.org"}  # no other host is asked for anything
