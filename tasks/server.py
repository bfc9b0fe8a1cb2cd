"""One Prefect server for this home, started when needed and left running; PREFECT_API_URL, if set, is used instead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from filelock import FileLock

from stereotalker.errors import UserError
from stereotalker.runtime.home import Home, free_port
from stereotalker.store.files import write_atomic

_START_S = 90


def ensure_server(home: Home) -> str:
    """The API's URL, of a server that answers. Sets PREFECT_API_URL and PREFECT_HOME for this process, before Prefect is imported."""
    if url := os.environ.get("PREFECT_API_URL"):
        if not _healthy(url):
            raise UserError(
                f"Prefect's server at PREFECT_API_URL={url} does not answer; start it, or unset the variable"
            )
        return url
    folder = home.prefect
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(folder)
    with FileLock(folder / "server.lock", timeout=2 * _START_S):
        url = _running(home) or _start(home)
    os.environ["PREFECT_API_URL"] = url
    return url


def stop_server(home: Home) -> bool:
    """Stop the server this home has started. Returns whether there was one."""
    record = home.prefect / "server.json"
    if not _running(home):
        record.unlink(missing_ok=True)
        return False
    os.killpg(json.loads(record.read_text())["pid"], signal.SIGTERM)
    record.unlink()
    return True


def _running(home: Home) -> str | None:
    try:
        url = json.loads((home.prefect / "server.json").read_text())["url"]
    except FileNotFoundError:
        return None
    return url if _healthy(url) else None


def _start(home: Home) -> str:
    folder, port = home.prefect, free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "server.log", "ab") as log:
        own = {**os.environ, "PREFECT_SERVER_UI_API_URL": url}  # else its page asks the default port
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=own, start_new_session=True
        )
    deadline = time.monotonic() + _START_S
    while not _healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise UserError(
                f"Prefect's server did not start within {_START_S} s; its words are in {folder / 'server.log'}"
            )
        time.sleep(0.3)
    write_atomic(folder / "server.json", json.dumps({"url": url, "pid": process.pid}).encode())
    return url


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
