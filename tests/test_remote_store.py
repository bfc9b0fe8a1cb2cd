"""A store and outputs on s3://, against an S3 server on loopback; what interrupted and damaged transfers do to them."""

import http.client
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import s3fs
from batch_helpers import write_batch

from stereotalker.errors import Unavailable, UserError
from stereotalker.flows.produce import produce
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.delivery import Places, deliver
from stereotalker.production.manifest import Clip
from stereotalker.production.outputs import Outputs
from stereotalker.store.local import MARKER, Store
from stereotalker.store.remote import RemoteStore, open_store

pytestmark = pytest.mark.integration


class FaultyProxy(ThreadingHTTPServer):
    """Stands between us and the S3 server, and spoils as many of the next answers as `faults` says.

    kind: "cut" sends half of the body, a number is an HTTP status, "slow" waits for a moment.
    """

    def __init__(self, port):
        self.target, self.faults, self.kind, self.spoilt = port, 0, 500, 0
        super().__init__(("127.0.0.1", 0), _Forward)

    def spoil(self, kind, faults):
        self.kind, self.faults, self.spoilt = kind, faults, 0


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        proxy, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_spoilt = proxy.faults > 0
        if is_spoilt:
            proxy.faults, proxy.spoilt = proxy.faults - 1, proxy.spoilt + 1
        if is_spoilt and proxy.kind == "slow":
            time.sleep(0.5)
        if is_spoilt and isinstance(proxy.kind, int):
            code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[proxy.kind]
            return self.answer(proxy.kind, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), {})
        connection = http.client.HTTPConnection("127.0.0.1", proxy.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
        self.answer(response.status, data, headers, cut=is_spoilt and proxy.kind == "cut" and bool(data))

    def answer(self, status, data, headers, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = headers.get("Content-Length") or headers.get("content-length") or str(len(data))
        if "content-length" not in {name.lower() for name in headers}:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def log_message(self, *_):
        pass


_HOP_BY_HOP = {"connection", "transfer-encoding", "server", "date"}


@pytest.fixture
def faulty(s3, monkeypatch):
    """A proxy that spoils answers of the S3 server. Whoever opens a URL meanwhile goes through it."""
    proxy = FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr("stereotalker.store.urls._MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # its own, which come before ours
    yield proxy
    proxy.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def write_text(text):
    """A function that fills the folder of a store entry with one file."""
    return lambda folder: (folder / "a.txt").write_text(text)


def test_an_entry_made_on_one_machine_is_found_on_another(s3, tmp_path):
    here, there = (RemoteStore("s3://studio/shared", Store(tmp_path / name)) for name in ("here", "there"))
    here.make("stage", "key", write_text("x"))
    assert (there.find("stage", "key") / "a.txt").read_text() == "x"
    calls = []
    there.make("stage", "key", lambda folder: calls.append(1))
    assert (
        not calls
        and there.find("stage", "other") is None
        and open_store("s3://studio/shared", tmp_path).url == here.url
    )


def test_an_entry_without_its_marker_is_not_found(s3, tmp_path):
    first, second = (RemoteStore("s3://studio/half", Store(tmp_path / name)) for name in ("first", "second"))
    first.make("stage", "key", write_text("x"))
    s3.delete_object(Bucket="studio", Key=f"half/stage/key/{MARKER}")  # As if the upload had been interrupted.
    assert second.find("stage", "key") is None
    # The first machine's own copy is whole and is uploaded again.
    first.make("stage", "key", write_text("never written"))
    assert (second.find("stage", "key") / "a.txt").read_text() == "x"


@pytest.mark.parametrize("damage", [b"", b"y", None])
def test_a_damaged_object_is_remade(s3, tmp_path, damage):
    name = f"damaged-{damage}"
    first, second = (RemoteStore(f"s3://studio/{name}", Store(tmp_path / place)) for place in ("first", "second"))
    first.make("stage", "key", write_text("x"))
    if damage is None:
        s3.delete_object(Bucket="studio", Key=f"{name}/stage/key/a.txt")
    else:
        s3.put_object(Bucket="studio", Key=f"{name}/stage/key/a.txt", Body=damage)
    assert second.find("stage", "key") is None
    assert (second.make("stage", "key", write_text("again")) / "a.txt").read_text() == "again"
    assert s3.get_object(Bucket="studio", Key=f"{name}/stage/key/a.txt")["Body"].read() == b"again"


def test_a_batch_is_made_with_store_and_outputs_on_s3(s3, tmp_path, tiny_models, home, new_home):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one two"}, {"id": "b", "avatar": "zoe", "script": "hi"}])
    params = tiny_models.params.with_produce({"store": "s3://studio/store", "previews": 32})
    done = produce(batch, "s3://studio/night", params, home, "inline", weights=tiny_models.folder)
    assert done.report == "s3://studio/night/report.html" and [row.shown for row in done.results] == ["pass", "failed"]
    names = {entry["Key"] for entry in s3.list_objects_v2(Bucket="studio", Prefix="night/")["Contents"]}
    assert names == {
        f"night/{name}"
        for name in (
            "batch.json",
            "clips/a.json",
            "clips/a.mp4",
            "previews/a.mp4",
            "posters/a.jpg",
            "report.html",
            "results.json",
        )
    }
    rows = json.loads(s3.get_object(Bucket="studio", Key="night/results.json")["Body"].read())["clips"]
    assert rows[0]["preview"] == "previews/a.mp4"
    again = produce(
        batch, "s3://studio/night", params, new_home("another-machine"), "inline", weights=tiny_models.folder
    )
    # The other machine signs with its own certificate. Everything else is in the store.
    assert again.results[0].made == ["provenance"]


def test_unknown_locations_are_refused(tmp_path):
    with pytest.raises(UserError, match="s4://"):
        Outputs("s4://bucket")
    with pytest.raises(UserError, match="--out .* cannot be written"):
        (tmp_path / "file").write_text("")
        Outputs(tmp_path / "file").check("--out")


@pytest.mark.parametrize("kind", [500, 503, "cut", "slow"])
def test_a_server_that_is_out_of_order_for_a_moment_loses_nothing(faulty, tmp_path, kind):
    here, there = (RemoteStore(f"s3://studio/faulty-{kind}", Store(tmp_path / name)) for name in ("here", "there"))
    for k in range(3):
        faulty.spoil(kind, 2)
        here.make("stage", f"key{k}", write_text("x" * 1000))
        faulty.spoil(kind, 2)
        assert (there.find("stage", f"key{k}") / "a.txt").read_text() == "x" * 1000
        assert faulty.spoilt == 2 and there.has("stage", f"key{k}")


def test_an_object_that_may_not_be_listed_counts_as_missing(faulty, tmp_path):
    """S3 answers 403 in place of 404 to a caller without the right to list the bucket."""
    store = RemoteStore("s3://studio/unlisted", Store(tmp_path / "local"))
    faulty.spoil(403, 1)
    assert store.find("stage", "key") is None
    faulty.spoil(403, 10)
    with pytest.raises(Unavailable, match="cannot be written"):
        Outputs("s3://studio/unlisted").check("produce.store")
    faulty.spoil(403, 0)
    assert (store.make("stage", "key", write_text("x")) / "a.txt").read_text() == "x"


def test_a_server_that_stays_away_stops_the_batch_and_the_next_run_goes_on(
    faulty, tmp_path, tiny_models, home, monkeypatch
):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one"}, {"id": "b", "script": "two"}])
    params = tiny_models.params.with_produce({"store": "s3://studio/away", "retries": 0})

    def run():
        return produce(batch, tmp_path / "out", params, home, "inline", weights=tiny_models.folder)

    monkeypatch.setattr("stereotalker.store.urls.PATIENCE_S", 0.5)
    original = ClipMaker.segments

    def lose_the_server(self, *arguments):
        faulty.spoil(503, 10**6)
        return original(self, *arguments)

    with monkeypatch.context() as away:
        away.setattr(ClipMaker, "segments", lose_the_server)
        first = run()
    assert [row.state for row in first.results] == ["stopped"] * 2 and first.end.status == 3
    assert "did not answer for" in first.end.stopped and "run the batch again" in first.end.stopped
    with pytest.raises(Unavailable, match="produce.store s3://studio/away cannot be written"):
        run()
    faulty.spoil(503, 0)
    assert run().end.status == 0


def test_nobody_listens_at_the_address_of_the_store(tmp_path, monkeypatch):
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr("stereotalker.store.urls.PATIENCE_S", 0.2)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            RemoteStore("s3://studio/x", Store(tmp_path)).find("stage", "key")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


_MOVED = ("rejected/a.mp4", "rejected/a.json", "superseded/a.mp4", "superseded/a.json", "posters/a.jpg")


def test_videos_at_a_url_are_moved_with_their_verdicts(s3, tmp_path):
    outputs, clip = Outputs("s3://studio/verdicts"), Clip(id="a", avatar="ava", script="hi")
    (tmp_path / "v.mp4").write_bytes(b"new")
    for verdict in ("pass", "fail"):
        deliver(outputs, clip, Places.of(clip, verdict), tmp_path / "v.mp4", tmp_path / "v.mp4", b"{}")
    names = {entry["Key"] for entry in s3.list_objects_v2(Bucket="studio", Prefix="verdicts/")["Contents"]}
    assert names == {f"verdicts/{name}" for name in _MOVED}
    assert outputs.holds("rejected/a.mp4", 3, "") and not outputs.holds("clips/a.mp4", 3, "")
