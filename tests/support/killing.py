"""Runs that are killed at random moments, and go on, in processes of their own."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["killed_again_and_again"]

ROOT = Path(__file__).resolve().parents[2]
_MOST = 8  # kills of one run; then it may go to its end
# torch.fx takes the lock of tqdm, a semaphore that forks share: one that is killed with it would stop all that follow.
PARENT = """
import importlib, os, signal, sys, threading, time
from contextlib import suppress
with suppress(ImportError):
    from tqdm import tqdm
    tqdm.set_lock(threading.RLock())
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
run = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])
run(sys.argv[4], None)  # all that is imported late is there
start = time.monotonic()
run(sys.argv[4], None)
print(time.monotonic() - start, flush=True)
for line in sys.stdin:
    seconds, folder = line.strip().split(" ", 1)
    child = os.fork()
    if not child:
        run(sys.argv[4], folder)
        os._exit(0)
    end, status = time.monotonic() + float(seconds), (0, 0)
    while not status[0] and time.monotonic() < end:
        time.sleep(0.002)
        status = os.waitpid(child, os.WNOHANG)
    if not status[0]:  # it runs still, or waits to be asked how it ended: its number is its own
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)
    print(status[1], flush=True)
"""
_PATIENCE = 600.0  # seconds for a run that may go to its end


def killed_again_and_again(run: tuple[str, str, str], folder: Path, times: int, check: Callable[[Path], None]) -> int:
    """Run something so many times in folders of its own, each killed again and again until it is done; how often in all.

    A kill comes at a random moment of the time that a whole run takes, often in the first tenth of it.

    Args:
        run: module, function and first argument of what is run; the second is the folder, None for none.
        check: is called with each folder in the end.
    """
    rng, kills = random.Random(0), 0
    command = [sys.executable, "-c", PARENT, str(ROOT), *run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        whole = float(parent.stdout.readline())
        for number in range(times):
            mine, count = folder / str(number), 0
            while True:
                seconds = rng.random() * rng.choice([0.1, 0.5, 1.0]) * whole if count < _MOST else _PATIENCE
                print(seconds, mine, file=parent.stdin, flush=True)
                status = int(parent.stdout.readline())
                if status == 0:
                    break
                assert status == signal.SIGKILL
                count += 1
            kills += count
            check(mine)
        parent.stdin.close()
    return kills
