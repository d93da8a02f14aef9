"""The way from sources to a loaded library, and everything that can go wrong on it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels import compiler, library
from libertai_engine.kernels.compiler import CannotCache, CannotCompile
from libertai_engine.kernels.library import Library, Unavailable

# Compiles in no time, and has the one function that loading asks for.
TINY = """
extern "C" __attribute__((visibility("default"))) const char* libertai_instructions() {
  return "none at all";
}
"""
BUILD = """
import sys
from pathlib import Path
from libertai_engine.kernels import compiler
cache, sources, command = map(Path, sys.argv[1:])
print(compiler.build(cache, sources=sources, compilers=[str(command)]))
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tiny.cpp").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def command() -> str:
    """A compiler of this machine; without one the test is skipped."""
    try:
        return compiler.find_compiler().path
    except CannotCompile as error:
        pytest.skip(str(error))


def script(folder: Path, text: str) -> str:
    """A program that stands in the place of the compiler."""
    path = folder / "some-c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_library_is_compiled_once(sources: Path, tmp_path: Path, command: str) -> None:
    """The second wish finds what the first one made."""
    first = compiler.build(tmp_path / "cache", sources=sources, compilers=[command])
    made = first.stat()
    second = compiler.build(tmp_path / "cache", sources=sources, compilers=[command])
    assert second == first and second.stat().st_mtime_ns == made.st_mtime_ns
    assert library.load(first).instructions == "none at all"


def test_another_source_or_flag_is_another_library(
    sources: Path, tmp_path: Path, command: str
) -> None:
    """Nothing stale is ever loaded."""
    cache = tmp_path / "cache"
    paths = {compiler.build(cache, sources=sources, compilers=[command])}
    paths.add(compiler.build(cache, sources=sources, compilers=[command], flags=["-O0"]))
    (sources / "tiny.cpp").write_text(TINY.replace("none", "nothing"))
    paths.add(compiler.build(cache, sources=sources, compilers=[command]))
    assert len(paths) == 3


def test_no_compiler_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what was looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-own-c++")
    with pytest.raises(CannotCompile, match=r"no C\+\+ compiler \(my-own-c\+\+, g\+\+"):
        compiler.build(tmp_path / "cache")


def test_a_broken_compiler_is_a_reason(sources: Path, tmp_path: Path) -> None:
    """The reason is the first error it tells; nothing is left in the cache."""
    broken = script(
        tmp_path, '[ "$1" = --version ] || { echo warm; echo "x.cpp:1: error: cold" >&2; exit 1; }'
    )
    with pytest.raises(CannotCompile, match="failed: x.cpp:1: error: cold"):
        compiler.build(tmp_path / "cache", sources=sources, compilers=[broken])
    assert not list((tmp_path / "cache").glob("*.so"))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_compiler_that_makes_nothing_is_a_reason(sources: Path, tmp_path: Path) -> None:
    """It says that it went well, but there is no file."""
    with pytest.raises(CannotCompile, match="No such file"):
        idle = script(tmp_path, "exit 0")
        compiler.build(tmp_path / "cache", sources=sources, compilers=[idle])


def test_a_compiler_that_makes_rubbish_is_a_reason(sources: Path, tmp_path: Path) -> None:
    """What it made is no library."""
    rubbish = script(
        tmp_path, 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo rubbish > "$2"; shift; done'
    )
    made = compiler.build(tmp_path / "cache", sources=sources, compilers=[rubbish])
    with pytest.raises(CannotCompile, match="cannot be loaded"):
        library.load(made)


def test_a_damaged_library_is_made_anew(sources: Path, tmp_path: Path, command: str) -> None:
    """A file that was cut short would take the process down when it is loaded."""
    path = compiler.build(tmp_path / "cache", sources=sources, compilers=[command])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = compiler.build(tmp_path / "cache", sources=sources, compilers=[command])
    assert library.load(again).instructions == "none at all"
    assert again == path and path.stat().st_size > len(whole) // 2


def test_a_cache_that_cannot_be_made_is_told(sources: Path, tmp_path: Path, command: str) -> None:
    """Here a file has the folder's name."""
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(CannotCache, match="cannot use"):
        compiler.build(tmp_path / "cache", sources=sources, compilers=[command])


def test_a_cache_that_others_can_write_is_refused(
    sources: Path, tmp_path: Path, command: str
) -> None:
    """Somebody else's code must not run as ours."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(CannotCache, match="can be written by others"):
        compiler.build(tmp_path / "cache", sources=sources, compilers=[command])


def test_two_processes_compile_once(sources: Path, tmp_path: Path, command: str) -> None:
    """The second one waits, and takes what the first one made."""
    log = tmp_path / "runs"
    counting = script(tmp_path, f'echo "$1" >> {log}; sleep 0.3; exec {command} "$@"')
    arguments = [str(tmp_path / "cache"), str(sources), counting]
    run = [sys.executable, "-c", BUILD, *arguments]
    both = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0] for process in both}
    assert len(said) == 1 and all(process.returncode == 0 for process in both)
    runs = [line for line in log.read_text().split() if line != "--version"]
    assert runs == ["-O3", "-shared"]


def test_old_libraries_go_when_a_new_one_is_made(
    sources: Path, tmp_path: Path, command: str
) -> None:
    """All but those used last; what else lies in the folder stays."""
    cache = tmp_path / "cache"

    def made(number: int) -> Path:
        (sources / "tiny.cpp").write_text(TINY.replace("none", f"number {number}"))
        return compiler.build(cache, sources=sources, compilers=[command])

    (cache / "notes").mkdir(parents=True)
    (cache / "kernels.txt").write_text("mine")
    paths = [made(number) for number in range(compiler.KEPT)]
    opened = library.load(paths[1])
    for age, path in enumerate(paths):
        os.utime(path, ns=(10**18 - age, path.stat().st_mtime_ns))
    assert made(3) == paths[3]  # used again, so it is the youngest now
    new = made(99)
    assert {path for path in paths if path.exists()} == {paths[0], paths[1], paths[3]}
    newer = made(100)
    assert {*cache.glob("*.so")} == {paths[0], paths[3], new, newer}
    assert {path.stem for path in cache.glob("*.lock")} == {
        path.stem.rpartition("-")[0] for path in cache.glob("*.so")
    }
    assert opened.handle.libertai_instructions() == b"number 1 at all"
    assert (cache / "notes").is_dir() and (cache / "kernels.txt").read_text() == "mine"


def test_a_library_that_somebody_is_about_to_open_stays(
    sources: Path, tmp_path: Path, command: str
) -> None:
    """Who looks for it holds its lock; the next one who compiles removes it."""
    cache = tmp_path / "cache"
    path = compiler.build(cache, sources=sources, compilers=[command])
    lock = cache / f"{path.stem.rpartition('-')[0]}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        compiler.forget_unused(cache, num_kept=0)
        assert path.exists() and lock.exists()
    compiler.forget_unused(cache, num_kept=0)
    assert not path.exists() and not lock.exists()


def test_processes_that_remove_what_others_need_harm_nobody(
    tmp_path: Path, sources: Path, command: str
) -> None:
    """Each has sources of its own, and there is one place for all: a library is whole or gone."""
    code = """
import sys
from pathlib import Path
from libertai_engine.kernels import compiler, library
cache, sources, command, number = sys.argv[1:]
compiler.KEPT = 1
for _ in range(4):
    path = compiler.build(Path(cache), sources=Path(sources), compilers=[command])
    try:
        assert library.load(path).instructions == f"number {number} at all"
    except compiler.CannotCompile:
        assert not path.exists()  # it was removed since
    compiler.forget_unused(Path(cache), num_kept=1)
"""
    processes = []
    for number in range(3):
        folder = tmp_path / f"source{number}"
        folder.mkdir()
        (folder / "tiny.cpp").write_text(TINY.replace("none", f"number {number}"))
        arguments = [str(tmp_path / "cache"), str(folder), command, str(number)]
        processes.append(subprocess.Popen([sys.executable, "-c", code, *arguments]))
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]


def test_a_cache_that_is_emptied_meanwhile_is_filled_again(
    native: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding a library and opening it."""
    made = []

    def build(cache: Path | None = None) -> Path:
        made.append(tmp_path / f"{len(made)}.so")
        if len(made) == 2:
            made[-1].write_bytes(native.path.read_bytes())
        return made[-1]

    monkeypatch.setattr(compiler, "build", build)
    assert library.cached_or_passing().path == made[1]


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`XDG_CACHE_HOME`, else `.cache` in the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compiler.cache_folder() == Path("/somewhere/libertai-engine")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert compiler.cache_folder() == Path("/home/me/.cache/libertai-engine")


def test_torch_can_be_asked_for() -> None:
    """Then nothing is compiled."""
    assert library.choose("torch") == Unavailable("torch's kernels were asked for")


def test_native_kernels_that_were_asked_for_must_be_there(tmp_path: Path) -> None:
    """ "auto" goes on with torch where no compiler is; "native" is an error that says why."""
    code = """
from libertai_engine.kernels.library import choose
print(choose("auto").reason)
try:
    choose("native")
except Exception as error:
    print(type(error).__name__, error)
"""
    environment = os.environ | {"PATH": str(tmp_path), "CXX": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    reason, error = done.stdout.splitlines()
    assert reason == "no C++ compiler (g++, clang++, c++)"
    assert error == f"{ModelLoadError.__name__} no native kernels: {reason}"


def test_without_a_cache_a_library_is_made_for_the_process(
    native: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept, and the kernels are there all the same."""
    (tmp_path / "cache").write_text("not a folder")
    monkeypatch.setattr(library, "build_and_load", lambda: native)
    assert library.cached_or_passing(tmp_path / "cache") is native


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that run with a number for a user: nothing is kept, nothing fails."""

    def expand() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", expand)
    with pytest.raises(CannotCache, match="no cache folder"):
        compiler.cache_folder()


def test_nowhere_to_compile_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Read-only containers have neither a cache nor a folder for what passes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(CannotCompile, match="no folder to compile in"):
        library.cached_or_passing(tmp_path / "cache")


def test_who_waits_for_the_compiler_is_told(
    sources: Path, tmp_path: Path, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, on stderr wherever no logging is set up; what is found is not worth a word."""
    for _ in range(2):
        compiler.build(tmp_path / "cache", sources=sources, compilers=[command])
    told = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert told == [f"compiling native kernels with {command}: up to a minute"]
