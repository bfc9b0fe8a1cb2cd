"""Identifies the process that made a record, and tells whether it still runs.

With it, records that a killed driver left open can be closed.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from pathlib import Path

import psutil

_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # that of the machine itself, which Linux numbers alike everywhere


def _host() -> str:
    """Name of this machine, or of this container.

    Containers may share a host name, and process ids of one mean nothing in another. So the name of a container holds
    the boot and the namespace of its process ids.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # not Linux
        return socket.gethostname()
    if namespace == _FIRST_PID_NAMESPACE:
        return socket.gethostname()
    return f"{socket.gethostname()}-{hashlib.sha256(f'{boot} {namespace}'.encode()).hexdigest()[:8]}"


HOST = _host()


def identity(process: int | None = None) -> str:
    """Identity of a process of this machine as host/pid/start; None: of this one.

    The start time differs if the pid is used again later.
    """
    process = os.getpid() if process is None else process
    return f"{HOST}/{process}/{_start(process)}"


def is_dead(owner: str) -> bool:
    """Whether the process with this identity ran on this machine and has ended.

    False for a process of another machine, because its state cannot be known here.
    """
    host, _, rest = owner.partition("/")
    pid = rest.split("/")[0]
    if host != HOST or not pid.isdigit():
        return False
    try:
        return f"{HOST}/{pid}/{_start(int(pid))}" != owner or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _start(pid: int) -> str:
    """Start time of a process, in clock ticks since the machine started, so that setting the clock does not change it.

    Without /proc it is in seconds since 1970. Raises psutil.NoSuchProcess.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return f"{psutil.Process(pid).create_time():.0f}"
    try:
        return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except FileNotFoundError:
        raise psutil.NoSuchProcess(pid) from None


def person() -> str:
    """Who runs this process, and on which machine, for records: user@machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        return socket.gethostname()
