"""The Prefect server of a home. It is started when it is needed, and stays running.

If PREFECT_API_URL is set, that server is used instead.
"""

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

from stereotalker.errors import Unavailable
from stereotalker.runtime.home import Home, free_port
from stereotalker.store.files import write_atomic

_START_TIMEOUT_S = 90  # seconds until the server must answer
_MAX_LOG_BYTES = 10_000_000  # size of the server's log from which a new one is begun


def ensure_server(home: Home) -> str:
    """Make sure that a server answers, and return the URL of its API. Raises Unavailable if none does.

    Sets PREFECT_API_URL and PREFECT_HOME for this process, so it must be called before Prefect is imported.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        if not _healthy(url):
            raise Unavailable(
                f"Prefect's server at PREFECT_API_URL={url} does not answer; start it, or unset the variable"
            )
        return url
    folder = home.prefect
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(folder)
    with FileLock(folder / "server.lock", timeout=2 * _START_TIMEOUT_S):
        url = _running(home) or _start(home)
    os.environ["PREFECT_API_URL"] = url
    return url


def stop_server(home: Home) -> bool:
    """Stop the server that was started for this home. Returns whether one was running."""
    record = home.prefect / "server.json"
    if not _running(home):
        record.unlink(missing_ok=True)
        return False
    try:
        os.killpg(json.loads(record.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)
    except ProcessLookupError:  # another server has its port
        pass
    record.unlink()
    return True


def _running(home: Home) -> str | None:
    """URL of the server of this home; None if it does not answer."""
    try:
        url = json.loads((home.prefect / "server.json").read_text(encoding="utf-8"))["url"]
    except FileNotFoundError:
        return None
    return url if _healthy(url) else None


def _start(home: Home) -> str:
    """Start a server and wait until it answers. Returns its URL."""
    folder, port = home.prefect, free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log_file = folder / "server.log"
    if log_file.is_file() and log_file.stat().st_size > _MAX_LOG_BYTES:
        os.replace(log_file, folder / "server.old.log")
    with open(log_file, "ab") as log:
        # Without this variable the server's web page would call the API at the default port.
        environment = {**os.environ, "PREFECT_SERVER_UI_API_URL": url}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise Unavailable(
                f"Prefect's server did not start within {_START_TIMEOUT_S} s; its output is in {folder / 'server.log'}"
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
