"""Where state is kept: STEREOTALKER_HOME, an older version's ./runs, or the platform's folder for user data."""

import pytest

from stereotalker.runtime import home
from stereotalker.runtime.home import Home


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("STEREOTALKER_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    home._note_older_home.cache_clear()
    return tmp_path


def test_state_is_kept_in_the_users_data_folder(working_folder, capsys):
    (working_folder / "runs").mkdir()  # This folder belongs to another program, as it holds no store.
    assert Home.default().root == working_folder / "data" / "stereotalker" and not capsys.readouterr().err


def test_the_runs_folder_of_an_older_version_is_used_with_one_note(working_folder, capsys):
    (working_folder / "runs" / "store").mkdir(parents=True)
    assert Home.default().root == Home.default().root == working_folder / "runs"
    assert capsys.readouterr().err.count("an older version") == 1


def test_the_environment_variable_takes_precedence(working_folder, monkeypatch):
    (working_folder / "runs" / "store").mkdir(parents=True)
    monkeypatch.setenv("STEREOTALKER_HOME", "here")
    assert Home.default().root == working_folder / "here"
