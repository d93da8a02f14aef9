"""From the C++ files of this folder to one shared library in the user's cache.

In: the sources, a compiler, flags, a cache folder. Out: the path of a library that was compiled
whole and unchanged since, or a `CannotCompile` that says why there is none. A library is found
again by what it was made from: sources, compiler, flags, processor and torch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "source"
FLAGS = ("-O3", "-march=native")
ALWAYS = (
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-ffp-contract=off",
)
COMPILERS = ("g++", "clang++", "c++")
TIMEOUT = 180.0  # seconds for one run of the compiler
KEPT = 4  # libraries stay: several environments, or machines with one home, may be in turns


class CannotCompile(Exception):
    """There is no library; the message says why in one line."""


class CannotCache(CannotCompile):
    """The cache folder cannot be used; another one might do."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that exists: its path, and what `--version` says."""

    path: str
    version: str


def find_compiler(names: Sequence[str] | None = None) -> Compiler:
    """The first of these that runs; without names `$CXX`, then the usual ones.

    Raises `CannotCompile`.
    """
    chosen = os.environ.get("CXX", "").strip()
    candidates = names if names is not None else ([chosen] if chosen else []) + list(COMPILERS)
    for path in filter(None, map(shutil.which, candidates)):
        try:
            done = _run([path, "--version"])
        except CannotCompile:
            continue
        return Compiler(path, done)
    raise CannotCompile(f"no C++ compiler ({', '.join(candidates)})")


def build(
    cache: Path | None = None,
    *,
    compilers: Sequence[str] | None = None,
    flags: Sequence[str] = FLAGS,
    sources: Path = SOURCES,
) -> Path:
    """The library, compiled now or before. Raises `CannotCompile`, or its `CannotCache`."""
    if not sys.platform.startswith("linux"):
        raise CannotCompile(f"native kernels are for Linux, not {sys.platform}")
    folder = cache or cache_folder()
    compiler = find_compiler(compilers)
    name = f"kernels-{_key(compiler, flags, sources)}"
    try:
        _make_private(folder)
        with _locked(folder / f"{name}.lock"):
            found = find(folder, name)
            if found is None:
                found = _compile(folder, name, compiler, flags, sources)
                forget_unused(folder)
            return found
    except OSError as error:
        raise CannotCache(f"cannot use {folder}: {error.strerror or error}") from error


def cache_folder() -> Path:
    """Where libraries are kept: `libertai-engine` in the user's cache folder.

    Raises `CannotCache` for a user without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "libertai-engine"
    except RuntimeError as error:
        raise CannotCache(f"no cache folder: {error}") from error


def find(folder: Path, name: str) -> Path | None:
    """A library of this name that is whole, and used from now on; what is damaged is removed."""
    for path in folder.glob(f"{name}-*.so"):
        if path.stem.endswith(_digest(path.read_bytes())):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            return path
        path.unlink(missing_ok=True)
    return None


def forget_unused(folder: Path, num_kept: int = KEPT) -> None:
    """Remove all libraries but those used last, and nothing else.

    Who has one open keeps it, since a file that is in use goes when its last user does. Who is
    looking for one holds its lock: it stays then.
    """
    used = []
    for path in folder.glob("kernels-*-*.so"):
        with suppress(OSError):  # somebody else removes, too
            used.append((path.stat().st_atime_ns, path))
    for _, path in sorted(used, reverse=True)[num_kept:]:
        lock = folder / f"{path.stem.rpartition('-')[0]}.lock"
        with suppress(OSError), _locked(lock, waits=False):
            path.unlink()
            lock.unlink()


def _compile(
    folder: Path, name: str, compiler: Compiler, flags: Sequence[str], sources: Path
) -> Path:
    # A warning, so that whoever waits for a first start sees why.
    logger.warning("compiling native kernels with %s: up to a minute", compiler.path)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "made.so"
        objects = _objects([compiler.path, *flags, *ALWAYS], sources, Path(scratch))
        _run([compiler.path, "-shared", *objects, "-o", str(made), *openmp()])
        path = folder / f"{name}-{_digest(made.read_bytes())}.so"
        made.rename(path)
    return path


def _objects(command: list[str], sources: Path, scratch: Path) -> list[str]:
    """Each source compiled, several at a time."""
    files = sorted(sources.glob("*.cpp"))
    objects = [str(scratch / f"{path.stem}.o") for path in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = zip(files, objects, strict=True)
        list(pool.map(lambda each: _run([*command, "-c", str(each[0]), "-o", each[1]]), made))
    return objects


def openmp() -> list[str]:
    """What to link for threads: torch's own OpenMP library, so there is one pool of threads."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [str(found[0])] if found else ["-lgomp"]


def _key(compiler: Compiler, flags: Sequence[str], sources: Path) -> str:
    files = sorted([*sources.glob("*.cpp"), *sources.glob("*.h")])
    parts = [path.name.encode() + path.read_bytes() for path in files]
    made_by = [compiler.path, compiler.version, *flags, *ALWAYS, *openmp()]
    machine = [platform.machine(), _processor(), torch.__version__]
    parts += [text.encode() for text in (*made_by, *machine)]
    return _digest(b"\0".join(parts))


def _processor() -> str:
    """Name and abilities of the processor: code compiled for another one may crash here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _run(command: list[str]) -> str:
    """What a program prints. Raises `CannotCompile` with the first error it tells."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise CannotCompile(f"{command[0]} failed: {said.strip()[:300]}")
    return done.stdout


def _make_private(folder: Path) -> None:
    """Make the folder; refuse one where others could put a library for us to run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise CannotCache(f"{folder} can be written by others")


@contextmanager
def _locked(path: Path, *, waits: bool = True) -> Iterator[None]:
    """One process at a time; the others then find what it made, or raise `BlockingIOError`."""
    import fcntl  # exists on the platforms that come this far

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield
