"""Runs that are killed at random moments, and go on, in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["killed_again_and_again"]

ROOT = Path(__file__).resolve().parents[2]
_MOST = 8  # kills of one run; then it may go to its end
PARENT = """
import importlib, os, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
run = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])
run(sys.argv[4], None)  # all that is imported late is there
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        run(sys.argv[4], line.strip())
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def killed_again_and_again(
    run: tuple[str, str, str], folder: Path, times: int, check: Callable[[Path], None], longest: float = 2.0
) -> int:
    """Run something so many times in folders of its own, each killed again and again until it is done; how often in all.

    Args:
        run: module, function and first argument of what is run; the second is the folder, None for none.
        check: is called with each folder in the end.
        longest: seconds until a kill.
    """
    rng, kills = random.Random(0), 0
    command = [sys.executable, "-c", PARENT, str(ROOT), *run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        for number in range(times):
            mine, count = folder / str(number), 0
            while True:
                print(mine, file=parent.stdin, flush=True)
                child = int(parent.stdout.readline())
                if count < _MOST:
                    time.sleep(rng.random() * rng.choice([0.1, 0.5, 1.0]) * longest)
                    os.kill(child, signal.SIGKILL)
                status = int(parent.stdout.readline())
                if status == 0:
                    break
                assert status == signal.SIGKILL
                count += 1
            kills += count
            check(mine)
        parent.stdin.close()
    return kills
