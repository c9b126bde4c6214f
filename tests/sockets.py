"""The sockets of a process and of all its descendants, out of Linux's /proc."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from pathlib import Path

LISTENS = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""The state of a socket that takes what comes, by table."""


def descendants(pid: int) -> set[int]:
    """A process and all that it has started, directly or not."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended by now
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = set[int](), [pid]
    while waiting:
        found.add(process := waiting.pop())
        waiting += children.get(process, [])
    return found


def open_sockets(pid: int) -> dict[str, str]:
    """By "address:port", what a process and its descendants listen at, the name of the process that does."""
    owners: dict[str, str] = {}
    for process in descendants(pid):
        with contextlib.suppress(OSError):  # it has ended by now
            name = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")[:80]
            for entry in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if (link := str(entry.readlink())).startswith("socket:["):
                        owners[link[8:-1]] = name
    found = {}
    for table, state in LISTENS.items():
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in owners:
                found[_address(fields[1])] = owners[fields[9]]
    return found


def is_local(address: str) -> bool:
    """Whether only this machine can reach "address:port"."""
    host = ipaddress.ip_address(address.rpartition(":")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return (mapped or host).is_loopback


def _address(field: str) -> str:
    """An entry such as 0100007F:1F90 as people write it."""
    host, _, port = field.partition(":")
    words = struct.pack(f"={len(host) // 8}I", *(int(host[i : i + 8], 16) for i in range(0, len(host), 8)))
    return f"{socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)}:{int(port, 16)}"
