"""What this process is, and which others there are: namespaces, capabilities, the boot.

Numbers and identities come out; nothing but the parent-death signal is changed.  Knows no
mount.  Sources: namespaces(7), user_namespaces(7), capabilities(7), prctl(2).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stacker.linux.syscall import checked, libc

CAP_SYS_ADMIN = 21
_PR_SET_PDEATHSIG = 1
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # USER_NS_INIT_INO, include/uapi/linux/nsfs.h


@dataclass(frozen=True, slots=True)
class IdRange:
    """One line of a uid_map or gid_map: `count` ids from `inside` on are `outside` on."""

    inside: int
    outside: int
    count: int


def set_parent_death_signal(signal: int) -> None:
    """Ask for a signal when the thread that made this process ends; 0 asks for none.

    :raises OSError: when the number is no signal.
    """
    checked(libc().prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def boot_id() -> str:
    """Return the random name that the kernel gave to this boot.

    :raises OSError: when /proc is not mounted.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def mount_namespace(process: int | str = "self") -> int:
    """Return the inode number that names a process's mount namespace, unique among the living ones.

    :raises OSError: when there is no such process, or it is not ours to ask about.
    """
    return os.stat(f"/proc/{process}/ns/mnt").st_ino


def live_mount_namespaces() -> dict[int, int]:
    """Return the mount namespaces that processes live in, each with the id of one process in it.

    Processes that are not ours to ask about are left out: an unprivileged caller sees its own.
    """
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            found.setdefault(mount_namespace(name), int(name))
        except OSError:
            continue
    return found


def in_initial_user_namespace() -> bool:
    """Whether ids and capabilities here are those of the machine."""
    return Path("/proc/self/ns/user").stat().st_ino == _INITIAL_USER_NAMESPACE


def has_capability(number: int) -> bool:
    """Whether a capability is effective in this thread, within its user namespace.

    :param number: ``CAP_*`` of include/uapi/linux/capability.h.
    """
    for line in Path("/proc/thread-self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapEff:"):
            return bool(int(line[7:], 16) >> number & 1)
    return False


def uid_map(process: int | str = "self") -> tuple[IdRange, ...]:
    """Return the user ids of a process's user namespace, in the kernel's order.

    :raises OSError: when there is no such process.
    """
    return _id_map(Path(f"/proc/{process}/uid_map"))


def gid_map(process: int | str = "self") -> tuple[IdRange, ...]:
    """Return the group ids of a process's user namespace, in the kernel's order.

    :raises OSError: when there is no such process.
    """
    return _id_map(Path(f"/proc/{process}/gid_map"))


def _id_map(path: Path) -> tuple[IdRange, ...]:
    lines = path.read_bytes().splitlines()
    return tuple(IdRange(*map(int, line.split())) for line in lines)


def usable_processors() -> int:
    """Say how many processors this process may use."""
    return len(os.sched_getaffinity(0))
