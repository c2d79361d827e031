"""Whose a file under construction is: several nodes may share a file system, where process ids alone say nothing."""

import contextlib
import os
import platform
import re
from pathlib import Path

from lossatlas.errors import room_for


def mark() -> str:
    """Return this process's mark on what it makes: host, process id, begin."""
    return f"{host()}-{os.getpid()}-{_begin(os.getpid())}"


def write(path: Path, content: bytes) -> None:
    """Write a file whole: it is made under a name of this process's own and then renamed.

    Raises:
        LossAtlasError: the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{mark()}")
    with room_for(path, len(content)):
        temporary.write_bytes(content)
    os.replace(temporary, path)


def host() -> str:
    """Return where process ids mean the same: host name and, on Linux, process namespace, without a hyphen."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return re.sub(r"[^\w.]", "", platform.node()) + re.sub(r"\D", "", namespace)


def _begin(pid: int) -> str:
    """Return when a process of this host began, in ticks since boot; nothing where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def alive(pid: str, begin: str) -> bool:
    """Return whether a process of this host lives; another one may have got its id."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return _begin(int(pid)) in (begin, "")
