"""The system-call filter of app processes: a small BPF program, built here, installed by ``confine``.

It refuses what app code has no business with and lets everything else through, because language
runtimes use far more calls than any list of ours would allow.

Source: seccomp(2) and the kernel's userspace-api/seccomp_filter; ADR 0011.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterable
from typing import Final

AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32: Final = 0x40000000

ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16

NEW_NAMESPACES: Final = 0x7E020000
AF_UNIX: Final = 1

# Name: numbers on x86_64 and aarch64; 0 = that machine has no such call.
REFUSED: Final = {
    # Other processes' memory, descriptors and state.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # Wide parts of the kernel that make good targets.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # Namespaces and mounts; `clone` with such flags is refused below.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # The machine as a whole.
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "syslog": (103, 116),
    "iopl": (172, 0),
    "ioperm": (173, 0),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
}
CLONE, CLONE3 = (56, 220), (435, 435)
SOCKET = (41, 198)

# Where apps share the node's user, its files and processes are theirs by ownership. These calls
# reach them without going through Landlock.
REFUSED_TO_SHARED: Final = {
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "chown": (92, 0),
    "lchown": (94, 0),
    "fchownat": (260, 54),
}
# Without effect instead of an error: libraries change modes of their own files all the time, and
# fail if they cannot. Nobody else enters the private folders, so the mode does not matter there.
IGNORED_OF_SHARED: Final = {"chmod": (90, 0), "fchmodat": (268, 53), "fchmodat2": (452, 452)}
OWN_PROCESS_ONLY: Final = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
# Name: numbers, and the kind of target (first argument) that means every process of the user.
BY_KIND_AND_PROCESS: Final = {"setpriority": (141, 140, 2), "ioprio_set": (251, 30, 3)}

Instruction = tuple[int, int, int, int]


def filter_program(*, shared_user: bool, machine: str = "") -> bytes | None:
    """Return the filter as an array of ``struct sock_filter``.

    Args:
        shared_user: apps run as the node's own user, so much more has to be refused.
        machine: as ``uname -m`` says; default: this one's.

    Returns:
        None when the machine's calls are not known here.
    """
    machine = machine or os.uname().machine
    arch = AUDIT_ARCH.get(machine)
    # A 32-bit program on a 64-bit kernel uses other numbers.
    if arch is None or sys.maxsize < 1 << 32:
        return None
    column = list(AUDIT_ARCH).index(machine)
    program = _head(arch) + _common(column)
    if shared_user:
        program += _for_shared_user(column)
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _head(arch: int) -> list[Instruction]:
    """Refuse calls of another architecture, whose numbers mean something else."""
    return [
        (LOAD, 0, 0, ARCH),
        (JUMP_EQUAL, 1, 0, arch),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
    ]


def _common(column: int) -> list[Instruction]:
    program = _refuse((numbers[column] for numbers in REFUSED.values()), errno.EPERM)
    program += _refuse_if(CLONE[column], 0, (JUMP_ANY_BIT, 0, 1, NEW_NAMESPACES), errno.EPERM)
    # Its flags are in memory, which a filter cannot read; libc falls back to clone.
    return program + _refuse([CLONE3[column]], errno.ENOSYS)


def _for_shared_user(column: int) -> list[Instruction]:
    program = _refuse((n[column] for n in REFUSED_TO_SHARED.values()), errno.EPERM)
    program += _refuse((n[column] for n in IGNORED_OF_SHARED.values()), 0)
    # Sockets with a path, such as the runtime's own; socketpair is another call.
    program += _refuse_if(SOCKET[column], 0, (JUMP_EQUAL, 0, 1, AF_UNIX), errno.EACCES)
    for numbers in OWN_PROCESS_ONLY.values():
        program += _refuse_if(numbers[column], 0, (JUMP_EQUAL, 1, 0, 0), errno.EPERM)
    for *of_machine, whole_user in BY_KIND_AND_PROCESS.values():
        number = of_machine[column]
        program += _refuse_if(number, 0, (JUMP_EQUAL, 0, 1, whole_user), errno.EPERM)
        program += _refuse_if(number, 1, (JUMP_EQUAL, 1, 0, 0), errno.EPERM)
    return program


def _refuse(numbers: Iterable[int], code: int) -> list[Instruction]:
    program: list[Instruction] = []
    for number in filter(None, numbers):
        program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | code)]
    return program


def _refuse_if(number: int, argument: int, test: Instruction, code: int) -> list[Instruction]:
    """Refuse a call by the low half of an argument, which is all the kernel takes of an int."""
    return [
        (JUMP_EQUAL, 0, 4, number),
        (LOAD, 0, 0, ARGUMENTS + 8 * argument),
        test,
        (RETURN, 0, 0, ERRNO | code),
        (LOAD, 0, 0, NUMBER),
    ]
