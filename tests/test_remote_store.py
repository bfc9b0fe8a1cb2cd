"""A store and outputs on s3://, against an S3 server on loopback; what interrupted and damaged transfers do to them."""

import json
import os

import boto3
import pytest
from batch_helpers import write_batch
from moto.server import ThreadedMotoServer

from stereotalker.errors import UserError
from stereotalker.flows.produce import produce
from stereotalker.production.outputs import Outputs
from stereotalker.store.local import MARKER, Store
from stereotalker.store.remote import RemoteStore, open_store

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def s3():
    """A client of the server. fsspec finds the server through the environment, as it would find that of a studio."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    client = boto3.client("s3")
    client.create_bucket(Bucket="studio")
    yield client
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


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
        f"night/{name}" for name in ("clips/a.mp4", "previews/a.mp4", "posters/a.jpg", "report.html", "results.json")
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
