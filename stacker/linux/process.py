"""Facts about this process and others: namespaces, capabilities, ID maps, threads, the boot ID.

Functions return numbers and identifiers.  Only `set_parent_death_signal` and `usable_new_files`
change the process, and only `start_python`, `spawn` and `spawn_python` start one.
This module does not use mounts.  Sources: namespaces(7), user_namespaces(7), capabilities(7),
prctl(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stacker.linux.syscall import checked, libc

CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 21, 24
OVERFLOW_ID = 65534
"""The overflow ID, unless a sysctl sets another (proc_sys_kernel(5))."""
_PR_SET_PDEATHSIG = 1
_EXIT_TIMEOUT = 2000  # milliseconds
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # USER_NS_INIT_INO, include/uapi/linux/nsfs.h


@dataclass(frozen=True, slots=True)
class IdRange:
    """One line of uid_map or gid_map (user_namespaces(7)).

    :param inside: first ID in the user namespace.
    :param outside: first ID in the parent namespace.
    :param count: length of the range.
    """

    inside: int
    outside: int
    count: int


def set_parent_death_signal(signal: int) -> None:
    """Make the kernel send a signal to this process when its parent thread ends.

    :param signal: the signal's number; 0 turns this off.
    :raises OSError: the number is not a signal.
    """
    checked(libc().prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def umask() -> int:
    """Return the umask, which all threads of this process share (umask(2))."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0)  # before Linux 4.7; other threads create files with all permissions
    os.umask(mask)
    return mask


@contextmanager
def usable_new_files() -> Iterator[int]:
    """Let the owner access new files during the block; yield the umask that is then in effect.

    A umask with the owner's bits is rare.  Only these bits change, so the files that other threads
    create meanwhile stay closed to other users.
    """
    before = umask()
    if not before & 0o700:
        yield before
        return
    os.umask(before & 0o077)
    try:
        yield before & 0o077
    finally:
        os.umask(before)


def has_threads() -> bool:
    """Return whether this process has more than one thread, including those of C libraries."""
    return len(os.listdir("/proc/self/task")) > 1


def start_python(code: str, *, stdin: int, stdout: int) -> int:
    """Start an interpreter that runs `code`, and return its process ID.

    The interpreter finds the modules that this process finds, and has its inheritable descriptors.
    The caller must wait for it (waitpid(2)).

    :param stdin: the descriptor that the interpreter reads from.
    :param stdout: the descriptor that it writes to.
    :raises OSError: the interpreter cannot be started.
    """
    import subprocess  # commands have one thread, and fork
    import sys

    path = [os.path.abspath(each) for each in sys.path]
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}"]
    started = subprocess.Popen(command, stdin=stdin, stdout=stdout, close_fds=False)
    started.returncode = 0  # the caller waits, not the garbage collector
    return started.pid


def spawn(words: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]) -> int:
    """Start a program in a new session, and return its process ID; safe in a process with threads.

    The caller must wait for it (waitpid(2)).

    :param words: the program, absolute, and its arguments.
    :param descriptors: become descriptors 0, 1, 2 and so on of the program; it has no others.
    :raises OSError: the program cannot be executed.
    """
    import fcntl
    import signal

    copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, len(descriptors)) for each in descriptors]
    try:
        return os.posix_spawn(
            words[0],
            list(words),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, each, n) for n, each in enumerate(copies)],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them
        )
    finally:
        for each in copies:
            os.close(each)


def spawn_python(code: str, descriptors: Sequence[int]) -> int:
    """Start an interpreter that runs `code`, as `spawn` does.

    The interpreter finds the modules that this process finds.

    :raises OSError: the interpreter cannot be started.
    """
    import sys

    path = [os.path.abspath(each) for each in sys.path]
    setup = f"import sys; sys.path[:] = {path!r}; {code}"
    return spawn((sys.executable, "-I", "-S", "-c", setup), {}, descriptors)


def boot_id() -> str:
    """Return the random UUID that the kernel generated at boot.

    :raises OSError: /proc is not mounted.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; no other process has both numbers.

    :raises OSError: the process does not exist.
    """
    status = Path(f"/proc/{pid}/stat").read_bytes()
    return int(status.rpartition(b")")[2].split()[19])  # field 22, proc_pid_stat(5)


def kill(pid: int, started: int) -> None:
    """Kill a process and wait for its end; nothing happens if another process has its ID.

    :param started: as from `start_time`.
    :raises OSError: the process does not exist, or the caller may not kill it.
    """
    import select
    import signal

    found = os.pidfd_open(pid)
    try:
        if start_time(pid) == started:
            signal.pidfd_send_signal(found, signal.SIGKILL)
            poll = select.poll()
            poll.register(found, select.POLLIN)
            poll.poll(_EXIT_TIMEOUT)
    finally:
        os.close(found)


def mount_namespace(process: int | str = "self") -> int:
    """Return the inode number of a process's mount namespace, unique among existing ones.

    :param process: a process ID, or ``self``.
    :raises OSError: the process does not exist, or the caller may not inspect it.
    """
    return os.stat(f"/proc/{process}/ns/mnt").st_ino


def live_mount_namespaces() -> dict[int, int]:
    """Return the mount namespaces that have processes, each with one of their process IDs.

    Processes that the caller may not inspect are omitted: an unprivileged caller sees its own.
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
    """Return whether this process is in the initial user namespace."""
    return Path("/proc/self/ns/user").stat().st_ino == _INITIAL_USER_NAMESPACE


def overflow_id(kind: str = "uid") -> int:
    """Return the ID that the kernel shows for an ID outside of a user namespace.

    :param kind: ``uid`` or ``gid``.
    """
    try:
        return int(Path(f"/proc/sys/kernel/overflow{kind}").read_bytes())
    except OSError:
        return OVERFLOW_ID


def has_capability(number: int) -> bool:
    """Return whether this thread has an effective capability in its user namespace.

    :param number: ``CAP_*`` of include/uapi/linux/capability.h.
    """
    for line in Path("/proc/thread-self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapEff:"):
            return bool(int(line[7:], 16) >> number & 1)
    return False


def bounding_set() -> int:
    """Return the capability bounding set of this thread, one bit for each capability.

    execve(2) gives no program a capability outside of it.
    """
    for line in Path("/proc/thread-self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapBnd:"):
            return int(line[7:], 16)
    return 0


def has_no_new_privileges() -> bool:
    """Return whether execve(2) gives this process no privileges (``PR_SET_NO_NEW_PRIVS``)."""
    return b"\nNoNewPrivs:\t1\n" in Path("/proc/self/status").read_bytes()


def uid_map(process: int | str = "self") -> tuple[IdRange, ...]:
    """Return the user ID map of a process's user namespace, in the kernel's order.

    :raises OSError: the process does not exist.
    """
    return _id_map(Path(f"/proc/{process}/uid_map"))


def gid_map(process: int | str = "self") -> tuple[IdRange, ...]:
    """Return the group ID map of a process's user namespace, in the kernel's order.

    :raises OSError: the process does not exist.
    """
    return _id_map(Path(f"/proc/{process}/gid_map"))


def _id_map(path: Path) -> tuple[IdRange, ...]:
    lines = path.read_bytes().splitlines()
    return tuple(IdRange(*map(int, line.split())) for line in lines)


def usable_processors() -> int:
    """Return the number of processors in this process's CPU affinity mask."""
    return len(os.sched_getaffinity(0))


def is_trusted_owner(owner: int) -> bool:
    """Return whether the owner of a file is root or the caller.

    In a user namespace the owner of the host's files has no ID; the kernel shows the overflow ID
    for it and for every other user outside (user_namespaces(7)).
    """
    if owner in {0, os.geteuid()}:
        return True
    return owner == overflow_id() and not in_initial_user_namespace()
