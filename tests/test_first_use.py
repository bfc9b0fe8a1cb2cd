"""What a home makes at its first use, what its records hold, and whose silent flow runs are crashed."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from batch_helpers import write_batch
from mlflow import MlflowClient

from stereotalker.media.content_credentials import _is_pair, _local_signer
from stereotalker.production.outputs import Outputs
from stereotalker.runtime import process_identity
from stereotalker.runtime.environment import set_library_defaults
from stereotalker.runtime.home import Home
from stereotalker.store.local import Store
from stereotalker.tasks import flowrun
from stereotalker.tasks.server import _healthy
from stereotalker.tasks.tracking import Tracker

pytestmark = pytest.mark.integration


def test_processes_that_use_a_new_home_at_once_find_it_whole(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom stereotalker.runtime.home import Home\n"
        "from stereotalker.tasks.tracking import Tracker\n"
        "from stereotalker.media.content_credentials import _local_signer\n"
        "home = Home(Path(sys.argv[1])); _local_signer(home.credentials); Tracker(home, 'batch').start('x')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    home = Home(tmp_path / "home")
    assert _is_pair(_local_signer(home.credentials))
    client = MlflowClient(home.tracking_uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "stereotalker-batches"]
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_a_key_without_its_certificate_is_made_anew(tmp_path):
    _local_signer(tmp_path / "a")
    shutil.copy(tmp_path / "a" / "local-key.pem", _made(tmp_path / "b") / "local-key.pem")  # killed between the two
    assert _is_pair(_local_signer(tmp_path / "b")) and _is_pair(_local_signer(tmp_path / "b"))


def _made(folder: Path) -> Path:
    _local_signer(folder)
    return folder


def test_a_moved_home_keeps_its_new_records_in_its_new_place(home, tmp_path):
    before = Tracker(home, "batch")
    before.attach(before.start("x"), "a.txt", b"old")
    moved = Home(home.root.rename(tmp_path / "moved"))
    (tmp_path / home.root.name).write_text("something else stands in the old place")
    tracker = Tracker(moved, "batch")
    tracker.attach(tracker.start("y"), "a.txt", b"new")
    assert [path.read_bytes() for path in sorted(moved.root.rglob("a.txt"), key=lambda p: p.stat().st_mtime)] == [
        b"old",
        b"new",
    ]
    assert Tracker(moved, "batch").experiment == tracker.experiment


def test_what_could_not_be_measured_is_left_out_of_the_records(home):
    tracker = Tracker(home, "batch")
    run = tracker.start("x")
    tracker.note(run, metrics={"lufs": -np.inf, "sharpness": np.nan, "frames": 8})
    data = MlflowClient(home.tracking_uri).get_run(run).data
    assert data.metrics == {"frames": 8} and data.tags["not_measured"] == "lufs, sharpness"


def test_records_never_fail_a_batch(run_batch, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Tracker, "attach", lambda *_: (_ for _ in ()).throw(NotADirectoryError("moved away")))
    assert run_batch(write_batch(tmp_path, [{"id": "a", "script": "one"}])).end.status == 0
    assert "moved away" in capsys.readouterr().err


def test_containers_of_one_host_name_are_told_apart(monkeypatch):
    def host(namespace, boot="b"):
        monkeypatch.setattr(process_identity.os, "readlink", lambda path: namespace)
        monkeypatch.setattr(process_identity.Path, "read_text", lambda self, **_: boot)
        return process_identity._host()

    machine = host("pid:[4026531836]")
    containers = [host("pid:[4026532001]"), host("pid:[4026532002]"), host("pid:[4026532001]", "after a restart")]
    assert len({machine, *containers}) == 4 and "-" not in machine.removeprefix(process_identity.socket.gethostname())
    assert "/" not in "".join(containers)


def test_only_our_own_silent_flow_runs_are_crashed(monkeypatch):
    """On a server that other teams use, too: the trigger asks for our tag, and an older one without it is replaced."""
    registered, deleted = [], []

    class FakeAutomation:
        def __init__(self, **values):
            self.trigger, self.values = values["trigger"], values

        @classmethod
        def read(cls, name):
            if not registered:
                raise ValueError(name)
            return registered[-1]

        def create(self):
            registered.append(self)

        def delete(self):
            deleted.append(self)

    monkeypatch.setattr(flowrun, "Automation", FakeAutomation)
    flowrun.register_silence_automation()
    flowrun.register_silence_automation()
    assert len(registered) == 1 and not deleted
    related = registered[0].trigger.match_related.model_dump()
    assert related == {"prefect.resource.id": f"prefect.tag.{flowrun.TAG}", "prefect.resource.role": "tag"}
    registered[0].trigger = registered[0].trigger.model_copy(update={"match_related": {}})
    flowrun.register_silence_automation()
    assert len(registered) == 2 and len(deleted) == 1


def test_many_stores_of_one_name_work_at_once(tmp_path):
    """The check whether a place can be written, by many batches at the same moment, in a folder that does not exist."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: Outputs(tmp_path / "new" / "store").check("produce.store"), range(64)))
    assert not list(tmp_path.iterdir())
    with ThreadPoolExecutor(8) as threads:
        made = list(
            threads.map(lambda k: Store(tmp_path).make("stage", "key", lambda f: (f / "a").write_text("x")), range(64))
        )
    assert len(set(made)) == 1 and Store(tmp_path).has("stage", "key") and not list(tmp_path.glob("*/*.tmp"))
    Store(tmp_path).discard("stage", "key")
    assert not Store(tmp_path).has("stage", "key")


def test_our_own_server_is_not_behind_the_studios_proxy(monkeypatch):
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    set_library_defaults()
    assert _healthy(f"http://127.0.0.1:{server.server_port}/api")
    server.shutdown()
