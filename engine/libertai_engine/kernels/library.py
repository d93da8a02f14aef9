"""The compiled library, loaded once a process.

In: the wish of `EngineConfig.kernels`. Out: a `Library` to call, or the reason why there is none.
"""

from __future__ import annotations

import ctypes
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from libertai_engine.config import Kernels
from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels import compiler
from libertai_engine.kernels.compiler import CannotCache, CannotCompile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded library. Its functions take addresses: callers check shapes and types before."""

    handle: ctypes.CDLL
    path: Path
    instructions: str  # what the code was compiled for, such as "AVX-512 VNNI BF16"


@dataclass(frozen=True, slots=True)
class Unavailable:
    """There is no library on this machine, for one reason."""

    reason: str


def choose(kernels: Kernels) -> Library | Unavailable:
    """The library if it is wished for and there is one.

    Raises `ModelLoadError` where it is asked for by name ("native") and cannot be had.
    """
    if kernels == "torch":
        return Unavailable("torch's kernels were asked for")
    found = native()
    if kernels == "native" and isinstance(found, Unavailable):
        raise ModelLoadError(f"no native kernels: {found.reason}")
    return found


@lru_cache(maxsize=1)
def native() -> Library | Unavailable:
    """The library of this process, compiled if need be. A reason is told to the log once."""
    try:
        return cached_or_passing()
    except CannotCompile as error:
        logger.info("no native kernels (%s): torch's are used", error)
        return Unavailable(str(error))


def cached_or_passing(cache: Path | None = None) -> Library:
    """The library of the cache folder; where there can be none, one for this process alone.

    Raises `CannotCompile`.
    """
    try:
        path = compiler.build(cache)
        try:
            return load(path)
        except CannotCompile:
            if path.exists():
                raise
            return load(compiler.build(cache))  # somebody has emptied the cache in between
    except CannotCache as error:
        logger.warning("native kernels are compiled at every start (%s)", error)
        return build_and_load()


def load(path: Path) -> Library:
    """Open a library. Raises `CannotCompile`."""
    try:
        handle = ctypes.CDLL(str(path))
        handle.libertai_instructions.restype = ctypes.c_char_p
        return Library(handle, path, handle.libertai_instructions().decode())
    except (OSError, AttributeError) as error:
        raise CannotCompile(f"{path} cannot be loaded: {error}") from error


def build_and_load(
    *, compilers: Sequence[str] | None = None, flags: Sequence[str] = compiler.FLAGS
) -> Library:
    """A library in a folder that ends with this call. Raises `CannotCompile`."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            return load(compiler.build(Path(folder), compilers=compilers, flags=flags))
    except OSError as error:
        raise CannotCompile(f"no folder to compile in: {error}") from error
