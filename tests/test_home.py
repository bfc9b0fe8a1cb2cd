"""Where state lies: STEREOTALKER_HOME, an older version's ./runs, or the platform's folder for user data."""

import pytest

from stereotalker.runtime import home
from stereotalker.runtime.home import Home


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("STEREOTALKER_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    home._note_older_home.cache_clear()
    return tmp_path


def test_state_lies_in_the_users_data_folder(elsewhere, capsys):
    (elsewhere / "runs").mkdir()  # of another program: it holds nothing of ours
    assert Home.default().root == elsewhere / "data" / "stereotalker" and not capsys.readouterr().err


def test_the_runs_of_an_older_version_are_found_with_one_note(elsewhere, capsys):
    (elsewhere / "runs" / "store").mkdir(parents=True)
    assert Home.default().root == Home.default().root == elsewhere / "runs"
    assert capsys.readouterr().err.count("an older version") == 1


def test_the_variable_wins(elsewhere, monkeypatch):
    (elsewhere / "runs" / "store").mkdir(parents=True)
    monkeypatch.setenv("STEREOTALKER_HOME", "here")
    assert Home.default().root == elsewhere / "here"
