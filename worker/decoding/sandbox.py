"""What the kernel keeps from a decoder: Landlock takes the files, seccomp all system calls but those of decoding.

Both need no privilege, hold for good, and are set by the process itself once it has imported what it needs. Left are
its socket, the descriptors that its worker sends, the system's fonts, for the text of PDFs that bring none, and random
bytes, which qpdf wants of PDFs that are encrypted with AES-256.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

LANDLOCK, SECCOMP = "landlock", "seccomp"
WALLS = (LANDLOCK, SECCOMP)

#: Where pdfium looks for fonts on Linux.
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/X11/fonts")
RANDOM = "/dev/urandom"

# linux/prctl.h, linux/seccomp.h
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_KILL_PROCESS = 0x80000000
# linux/filter.h: load a word of `struct seccomp_data`; jump if equal; return
BPF_LOAD, BPF_JUMP_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENT_AT = 0, 4, 16

# linux/landlock.h; its system calls have the same numbers everywhere.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
#: Version of Landlock -> how many rights over files it knows; the highest rights are kept by later ones.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
TCP_RIGHTS = 0b11  # since version 4
SCOPES = 0b11  # abstract sockets and signals, since version 6

#: Machine -> its AUDIT_ARCH (linux/audit.h).
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: What decoding calls: memory, descriptors that are open, opening (which Landlock judges), clocks, the process itself.
CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20, "access": 21, "sched_yield": 24, "mremap": 25,
        "madvise": 28, "dup": 32, "nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
        "recvmsg": 47, "exit": 60, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89, "gettimeofday": 96,
        "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
        "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
        "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219, "clock_gettime": 228,
        "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "openat": 257, "newfstatat": 262,
        "readlinkat": 267, "faccessat": 269, "ppoll": 271, "set_robust_list": 273, "getcpu": 309, "getrandom": 318,
        "membarrier": 324, "statx": 332, "rseq": 334, "faccessat2": 439,
    },
    "aarch64": {
        "getcwd": 17, "dup": 23, "fcntl": 25, "faccessat": 48, "openat": 56, "close": 57, "getdents64": 61,
        "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "ppoll": 73,
        "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98,
        "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
        "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160,
        "getrlimit": 163, "getrusage": 165, "getcpu": 168, "gettimeofday": 169, "getpid": 172, "getppid": 173,
        "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "sendto": 206,
        "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
        "mprotect": 226, "madvise": 233, "getrandom": 278, "membarrier": 283, "statx": 291, "rseq": 293,
        "faccessat2": 439,
    },
}  # fmt: skip
#: Calls that are allowed with one value of their first argument: limits of the process itself, signals to itself.
PRLIMIT64 = {"x86_64": 302, "aarch64": 261}
TGKILL = {"x86_64": 234, "aarch64": 131}

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> list[str]:
    """Set up what this kernel has of `WALLS`, and say which those are. The process must have no_new_privs."""
    return [name for name, build in ((LANDLOCK, _shut_files), (SECCOMP, _shut_calls)) if build()]


def _shut_files() -> bool:
    version = _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rights = (1 << FILE_RIGHTS[min(version, max(FILE_RIGHTS))]) - 1
    sizes = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", rights, TCP_RIGHTS, SCOPES)[:sizes]
    rules = _libc.syscall(LANDLOCK_CREATE_RULESET, attributes, sizes, 0)
    if rules < 0:
        return False
    try:
        for path in filter(os.path.exists, (*FONTS, RANDOM)):
            _allow_reading(rules, path)
        return bool(_libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow_reading(rules: int, path: str) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE, descriptor)
        if _libc.syscall(LANDLOCK_ADD_RULE, rules, LANDLOCK_RULE_PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"landlock: {path}")
    finally:
        os.close(descriptor)


def _shut_calls() -> bool:
    machine = platform.machine()
    if machine not in CALLS or struct.calcsize("P") != 8:
        return False
    code = b"".join(_program(machine, os.getpid()))
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(program))
    return bool(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _program(machine: str, process: int) -> list[bytes]:
    """The filter: another architecture's calls end the process, and calls that are not listed fail with EPERM."""
    allow = _instruction(BPF_RETURN, SECCOMP_RET_ALLOW)
    refuse = _instruction(BPF_RETURN, SECCOMP_RET_ERRNO | errno.EPERM)
    program = [
        _instruction(BPF_LOAD, ARCHITECTURE_AT),
        _instruction(BPF_JUMP_EQUAL, ARCHITECTURES[machine], true=1),
        _instruction(BPF_RETURN, SECCOMP_RET_KILL_PROCESS),
        _instruction(BPF_LOAD, NUMBER_AT),
    ]
    for number in CALLS[machine].values():
        program += [_instruction(BPF_JUMP_EQUAL, number, false=1), allow]
    for number, values in ((PRLIMIT64[machine], (0, process)), (TGKILL[machine], (process,))):
        tests = [[_instruction(BPF_JUMP_EQUAL, value, false=1), allow] for value in values]
        body = [_instruction(BPF_LOAD, ARGUMENT_AT), *(line for test in tests for line in test), refuse]
        program += [_instruction(BPF_JUMP_EQUAL, number, false=len(body)), *body]
    return [*program, refuse]


def _instruction(code: int, operand: int, *, true: int = 0, false: int = 0) -> bytes:
    """One `struct sock_filter`; `true` and `false` are how many instructions a jump leaves out."""
    return struct.pack("=HBBI", code, true, false, operand)
