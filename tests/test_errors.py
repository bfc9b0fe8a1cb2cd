"""Faults of disks and services that every clip would meet are told from those of one clip."""

import pytest

from stereotalker.errors import ClipError, Unavailable, is_transient, shared_fault

pytestmark = pytest.mark.integration


class DriverError(Exception):
    """An error as libraries written in Rust raise it: the number is in the text only."""


def caused(outer, inner):
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(28, "No space left on device", "/mnt/x"), "No space left on device: /mnt/x"),
        (caused(RuntimeError("could not save"), OSError(30, "Read-only file system")), "Read-only file system"),
        (DriverError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "database or disk is full"),
        (OSError(5, "Input/output error", "/mnt/x"), ""),  # perhaps of a single file
        (ClipError("script 'No space left on device' gives no sound"), ""),
        (OSError(107, "Transport endpoint is not connected"), "endpoint is not connected"),
        (caused(OSError("read failed"), Unavailable("s3://night did not answer")), "s3://night did not answer"),
        (ClipError("no face"), ""),
        (FileNotFoundError(2, "No such file or directory"), ""),
        (ValueError("28"), ""),
    ],
)
def test_faults_that_every_clip_would_meet_are_recognized(error, fault):
    assert fault in shared_fault(error) and bool(shared_fault(error)) == bool(fault)
    assert not (fault and is_transient(error))


def test_a_chain_of_causes_that_ends_in_itself_is_walked_once():
    error = RuntimeError("a")
    error.__context__ = caused(RuntimeError("b"), error)
    assert shared_fault(error) == ""
