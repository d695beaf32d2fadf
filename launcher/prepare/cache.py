"""A cache of folders named by their content. One process makes a folder, the others wait; it appears whole or not
at all."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.config.files import flush_tree
from launcher.plan.architecture import cache_root


def path(name: str) -> Path:
    """Where the folder of this name is, or will be."""
    return cache_root() / "prepared" / name


@contextmanager
def making(name: str) -> Iterator[Path | None]:
    """None where the folder is there; else a folder to fill, which gets its name when the block ends without error."""
    final = path(name)
    if final.is_dir():
        yield None
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final):
        if final.is_dir():
            yield None
            return
        aside = final.with_name(f".{name}.partial")
        shutil.rmtree(aside, ignore_errors=True)  # left by one that was killed
        aside.mkdir()
        try:
            yield aside
            flush_tree(aside)
            aside.rename(final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    lock = FileLock(final.with_name(f".{final.name}.lock"))
    holder = final.with_name(f".{final.name}.holder")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        try:
            who = json.loads(holder.read_text(encoding="utf-8"))
            print(f"waiting for process {who['pid']} on {who['host']} to prepare the data", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            print("waiting for another process to prepare the data", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
