"""What all Python peers of jobs do alike; run in the peer's own environment.

``SCRIPT setup``          makes the schema.
``SCRIPT work``           works until it is told to stop; each job notes its number and the time.
``SCRIPT fill COUNT N``   sends jobs from N threads and prints the seconds it took.
``SCRIPT trickle COUNT``  sends a job every 20 ms and prints when each was begun to be sent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

URL = os.environ["PEER_URL"]
PAUSE_S = 0.02
_NOTES = os.open(os.environ["PEER_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(number: int) -> None:
    """Say that a handler began; the first thing every handler does."""
    os.write(_NOTES, f"{number} {time.time():.6f}\n".encode())


def main(
    *, setup: Callable[[], None], work: Callable[[], None], send: Callable[[int], object]
) -> None:
    """Obey the command line."""
    command, *numbers = sys.argv[1:]
    if command == "fill":
        count, threads = map(int, numbers)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(send, range(-threads, 0)))
            began = time.perf_counter()
            list(pool.map(send, range(count)))
            print(json.dumps(time.perf_counter() - began))
    elif command == "trickle":
        print(json.dumps([_send_one(send, number) for number in range(int(numbers[0]))]))
    else:
        {"setup": setup, "work": work}[command]()


def _send_one(send: Callable[[int], object], number: int) -> float:
    began = time.time()
    send(number)
    time.sleep(PAUSE_S)
    return began
