"""Files that are replaced whole or not at all: written in a folder of their own beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fxprune.errors import InputError, PruneError, shown

try:
    import fcntl
except ImportError:  # Windows cannot lock folders: there, two processes that save to one place at once may disturb each other
    fcntl = None  # type: ignore[assignment]

__all__ = ["checked_path", "move", "replace"]

_WORK = ".fxprune-"  # how the names of such folders start
_PATIENCE = 60.0  # seconds for another process, which locks a folder for the time that it takes to rename two files

Move = Callable[[Sequence[Path], Path], None]


def checked_path(path: Any) -> Path:
    """A path that an operating system can take.

    Raises:
        InputError: it is none.
    """
    try:
        text = os.fspath(path)
        os.fsencode(text)
    except (TypeError, UnicodeEncodeError) as error:
        raise InputError(f"a path must be text or a pathlib.Path that names a file, not {shown(path)}") from error
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"a path must be text without null characters, not {shown(path)}")
    return Path(text)


def replace(files: Sequence[Path], contents: Sequence[Callable[[Path], object]], move_all: Move | None = None) -> None:
    """Write files of one folder: all of them, or none where anything fails; what is there stays until the new files are whole.

    A process that is killed leaves the old files, or the new ones; what else it leaves, the next call in that folder removes.
    A link is replaced itself, and what it points to stays.

    Args:
        files: where they go; folders are made if needed.
        contents: for each what writes it to a path with the same name in another folder.
        move_all: renames all that was written, given their paths and the folder that they are in; one by one if not given.

    Raises:
        PruneError: the disk refuses, or another process keeps the folder locked.
    """
    folder = files[0].parent
    made: list[Path] = []
    try:
        for file in map(checked_path, files):
            if os.path.lexists(file) and not (file.is_file() or file.is_symlink()):
                raise PruneError(f"cannot write {file}: there is something that is no file; choose another name")
        made = _made(folder)
        with _work_folder(folder) as work:
            parts = [work / file.name for file in files]
            for put, part in zip(contents, parts, strict=True):
                put(part)
            rights = _usual_rights(work)
            for part in parts:  # one that was not written must not be found missing after others have replaced their files
                part.chmod(rights)
                with open(part, "r+b") as written:
                    os.fsync(written.fileno())
            with _locked(folder):
                move_all(parts, work) if move_all is not None else move(list(zip(parts, files, strict=True)), work)
                _sync(folder)
    except BaseException as error:
        for empty in reversed(made):
            with contextlib.suppress(OSError):
                empty.rmdir()
        if isinstance(error, OSError):
            raise PruneError(f"cannot write {files[0]}: {error}") from error
        raise


def move(pairs: Sequence[tuple[Path, Path]], work: Path) -> None:
    """Rename the first path of each pair to the second, in order; where one cannot be, all is as it was."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for number, (part, file) in enumerate(pairs):
            old: Path | None = work / f"old{number}"
            try:
                os.link(file, old, follow_symlinks=False)  # type: ignore[arg-type]
            except FileNotFoundError:
                old = None
            except (OSError, NotImplementedError):  # a disk without second names: what was renamed stays
                os.replace(part, file)
                continue
            os.replace(part, file)
            done.append((file, old))
    except BaseException:
        for file, old in reversed(done):
            with contextlib.suppress(OSError):
                file.unlink() if old is None else os.replace(old, file)
        raise


def _made(folder: Path) -> list[Path]:
    """Make a folder with those above it; gives those that were missing, the highest first."""
    missing = []
    for part in (folder, *folder.parents):
        if part.exists():
            break
        missing.append(part)
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _usual_rights(work: Path) -> int:
    """Those of a new file: some libraries write files that nobody else may read."""
    plain = work / "plain"
    plain.touch()
    return stat.S_IMODE(plain.stat().st_mode)


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A new folder in a folder, removed afterwards; it is locked for as long as its process lives. Removes dead ones."""
    with _locked(folder):
        for found in folder.glob(f"{_WORK}*"):
            with _hold(found) as free:
                if free and found.is_dir():
                    shutil.rmtree(found, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=folder))
        holding = _hold(work)
        holding.__enter__()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        holding.__exit__(None, None, None)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Inside, no other process or thread renames files in the folder; where folders cannot be locked, nothing is."""
    end = time.monotonic() + _PATIENCE
    while True:
        with _hold(folder) as free:
            if free is not False:
                yield
                return
        if time.monotonic() > end:
            raise PruneError(f"cannot write into {folder}: another process has been writing there for {_PATIENCE:.0f} seconds")
        time.sleep(0.01)


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[bool | None]:
    """Lock a folder if nobody has: True if so, False if somebody has, None where folders cannot be locked."""
    if fcntl is None:
        yield None
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder of another process, which has just removed it, or of another user
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free: bool | None = True
        except BlockingIOError:
            free = False
        except OSError:  # of some network disks
            free = None
        yield free
        if free:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a process that was forked meanwhile
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Have the new names of files on the disk, where a folder can be asked for that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
