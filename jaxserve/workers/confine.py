"""Confinement of a worker process: what it has loaded is all that it can use.

A worker runs what clients send (templates, grammars) in libraries that are not written for hostile input. If one of
them is taken over, it should find nothing: no network, no programs to start, no files to write, no files to read but
Python's own, no other process to look into, and limits that end. Linux gives an ordinary process all of this; on other
systems and old kernels a part is missing, and `confine` tells which.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

NO_NEW_PRIVILEGES, SYSTEM_CALLS, FILES = "no_new_privs", "seccomp", "landlock"
PROTECTIONS = (NO_NEW_PRIVILEGES, SYSTEM_CALLS, FILES)
NUM_SPARE_FILES = 16  # that a task may have open at a time

# prctl(2)
_SET_DEATH_SIGNAL, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 1, 22, 38
# seccomp(2): a filter of system calls, a program of classic BPF. Offsets are those of struct seccomp_data.
_FILTER_MODE, _NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 2, 0, 4, 16
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS, _CLONE_THREAD, _FIRST_X32_CALL = 1, 38, 0x10000, 0x40000000
# What a worker never needs: sockets, other processes and programs, and interfaces through which kernels are attacked.
_COMMON_CALLS = {"pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438}
_CALLS = {
    "x86_64": (
        0xC000003E,
        {"socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "clone": 56}
        | {
            "fork": 57,
            "vfork": 58,
            "execve": 59,
            "kill": 62,
            "ptrace": 101,
            "setpriority": 141,
            "tkill": 200,
            "add_key": 248,
        }
        | {"request_key": 249, "keyctl": 250, "unshare": 272, "accept4": 288, "perf_event_open": 298, "setns": 308}
        | {"process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "execveat": 322, "userfaultfd": 323},
    ),
    "aarch64": (
        0xC00000B7,
        {
            "unshare": 97,
            "ptrace": 117,
            "kill": 129,
            "tkill": 130,
            "setpriority": 140,
            "socket": 198,
            "socketpair": 199,
            "bind": 200,
        }
        | {"listen": 201, "accept": 202, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219}
        | {"clone": 220, "execve": 221, "perf_event_open": 241, "accept4": 242, "setns": 268, "process_vm_readv": 270}
        | {"process_vm_writev": 271, "bpf": 280, "execveat": 281, "userfaultfd": 282},
    ),
}
# Calls that name a process first, for this one only: others of this user could be ended, or starved of resources.
# tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, prlimit64, sched_setaffinity and sched_setscheduler.
_CALLS_ON_ITSELF = {"x86_64": (234, 129, 297, 302, 203, 144), "aarch64": (131, 138, 240, 261, 122, 119)}
# landlock(7)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_ALL_FILE_ACCESS = {1: (1 << 13) - 1, 2: (1 << 14) - 1}  # by version of the interface
_ALL_FILE_ACCESS_NOW = (1 << 15) - 1
_SYSTEM_PATHS = ("/usr", "/lib", "/lib64", "/etc/localtime", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")


def end_with_parent(parent_id: int) -> None:
    """Let the system kill this process when the thread that started it ends. parent_id: that thread's process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_id:  # it had ended before
            os._exit(1)


def confine(max_memory_bytes: int, max_cpu_s: int) -> tuple[str, ...]:
    """Confine this process for good, and return those of PROTECTIONS that the system gives.

    max_memory_bytes   Hard limit of its address space.
    max_cpu_s          Hard limit of its processor time, over all tasks.
    """
    leave_directory()
    _set_hard_limits(max_memory_bytes, max_cpu_s)
    if sys.platform != "linux":
        return ()
    library = ctypes.CDLL(None, use_errno=True)
    has_no_new_privileges = library.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    given = {
        NO_NEW_PRIVILEGES: has_no_new_privileges,
        FILES: has_no_new_privileges and _restrict_files(library, [*sys.path, sys.prefix, sys.base_prefix, _own()]),
        SYSTEM_CALLS: has_no_new_privileges and _restrict_calls(library, platform.machine()),
    }
    return tuple(name for name in PROTECTIONS if given[name])


def leave_directory() -> None:
    """Change to a directory that is gone, in which nothing can be created; to / where no directory can be written."""
    try:
        folder = tempfile.mkdtemp()
    except OSError:  # a container whose file system is read-only
        os.chdir("/")
        return
    os.chdir(folder)
    os.rmdir(folder)


def _set_hard_limits(max_memory_bytes: int, max_cpu_s: int) -> None:
    num_open = len(os.listdir("/dev/fd"))
    limits = {
        resource.RLIMIT_AS: max_memory_bytes,
        resource.RLIMIT_CPU: max_cpu_s,
        resource.RLIMIT_NOFILE: num_open + NUM_SPARE_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # root may start processes all the same; the filter of system calls is for all
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))


def _restrict_calls(library: ctypes.CDLL, machine: str) -> bool:
    """Install the filter of system calls; return whether it is there."""
    if machine not in _CALLS:
        return False
    code = make_filter(*_CALLS[machine], _CALLS_ON_ITSELF[machine], os.getpid())
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    return library.prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.create_string_buffer(header), 0, 0) == 0


def make_filter(architecture: int, calls: dict[str, int], on_itself: Sequence[int], process_id: int) -> bytes:
    """Return the filter that refuses `calls`, clone unless it makes a thread, and `on_itself` for other processes.

    A program of another architecture, whose numbers mean something else, is killed. The x32 calls of x86_64, a second
    number for most of them, do not exist. clone3 hides its flags in memory,
    so it does not exist, and the C library uses clone.
    """
    refused = [number for name, number in (calls | _COMMON_CALLS).items() if name not in ("clone", "clone3")]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_AT_LEAST, 1, 0, _FIRST_X32_CALL),
        (_JUMP_EQUAL, 0, 1, _COMMON_CALLS["clone3"]),
        (_RETURN, 0, 0, _ERROR | _ENOSYS),
    ]
    for number in refused:
        steps += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | _EPERM)]
    for number in on_itself:
        steps += [
            (_JUMP_EQUAL, 0, 5, number),
            (_LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET),
            (_JUMP_EQUAL, 2, 0, 0),  # itself, or no process
            (_JUMP_EQUAL, 1, 0, process_id),
            (_RETURN, 0, 0, _ERROR | _EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    steps += [
        (_JUMP_EQUAL, 0, 3, calls["clone"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET),
        (_JUMP_BITS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERROR | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)  # struct sock_filter


def _restrict_files(library: ctypes.CDLL, readable: Sequence[str]) -> bool:
    """Refuse all access to files but reading below `readable` and _SYSTEM_PATHS; return whether it is so."""
    version = library.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    all_access = struct.pack("Q", _ALL_FILE_ACCESS.get(version, _ALL_FILE_ACCESS_NOW))
    ruleset = library.syscall(_CREATE_RULESET, all_access, ctypes.c_size_t(len(all_access)), 0)
    if ruleset < 0:
        return False
    try:
        for path in _existing((*readable, *_SYSTEM_PATHS)):
            access = _READ_FILE | (_READ_DIRECTORY if path.is_dir() else 0)
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            library.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, opened), 0)
            os.close(opened)
        return library.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _own() -> str:
    """Return the directory of what the system tells of this process, from which tasks read their memory."""
    return f"/proc/{os.getpid()}"


def _existing(names: Iterable[str]) -> list[Path]:
    return [path for path in dict.fromkeys(map(Path, names)) if path.is_absolute() and path.exists()]
