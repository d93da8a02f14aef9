"""How many threads are right, from files as Linux writes them; binding and memory for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from libertai_engine.config import MAX_THREADS, EngineConfig
from libertai_engine.errors import InvalidRequest
from libertai_engine.processors import (
    allowed_processors,
    bind,
    default_threads,
    keep_memory,
    most_threads,
    read_processors,
    settle,
    spell,
)


def machine(root: Path, siblings: list[str], **files: str) -> Path:
    """A system with these cores, and files whose names have `__` for slashes and no dots."""
    for number, text in enumerate(siblings):
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(text + "\n")
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("cpu_max", "cpu.max").replace(
            "cfs", "cpu.cfs"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


HYPER = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"]
V2, V1 = "0::/box/inner\n", "4:memory:/box\n7:cpu,cpuacct:/box\n"


@pytest.mark.parametrize(
    ("allowed", "files", "expected"),
    [
        (range(8), {}, 4),  # eight hardware threads of four cores
        ((0, 4), {}, 1),
        ((1, 4, 6), {}, 3),
        (range(8), {"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_max": "max 100000"}, 4),
        (range(8), {"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_max": "250000 100000"}, 2),
        (range(8), {"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_max": "50000 100000"}, 1),
        (
            range(8),
            {
                "proc__self__cgroup": V2,
                "sys__fs__cgroup__box__cpu_max": "100000 100000",
                "sys__fs__cgroup__box__inner__cpu_max": "300000 100000",
            },
            1,
        ),
        (
            range(8),
            {
                "proc__self__cgroup": V1,
                "sys__fs__cgroup__cpu__box__cfs_quota_us": "300000",
                "sys__fs__cgroup__cpu__box__cfs_period_us": "100000",
            },
            3,
        ),
        (
            range(8),
            {
                "proc__self__cgroup": V1,
                "sys__fs__cgroup__cpu__box__cfs_quota_us": "-1",
                "sys__fs__cgroup__cpu__box__cfs_period_us": "100000",
            },
            4,
        ),
    ],
)
def test_threads_are_cores_within_affinity_and_quota(
    allowed: range, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    """Both versions of control groups, and the tightest of nested ones."""
    assert default_threads(machine(tmp_path, HYPER, **files), allowed) == expected


def test_without_any_information_every_processor_counts(tmp_path: Path) -> None:
    """A system that says nothing of cores."""
    assert default_threads(tmp_path, range(3)) == 3


@pytest.mark.parametrize("text", ["0", "0-3", "0-2,5", "1,3,5-6"])
def test_processors_are_written_as_linux_writes_them(text: str) -> None:
    """And read back."""
    assert spell(read_processors(text)) == text


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2", "70000"])
def test_what_names_no_processors_is_refused(text: str) -> None:
    """Never an empty set, never one of millions."""
    with pytest.raises(ValueError):
        read_processors(text)


def test_a_processor_that_is_not_there_is_refused() -> None:
    """And nothing is bound."""
    before = allowed_processors()
    for wrong in ((max(before) + 1,), ()):
        with pytest.raises(InvalidRequest, match="`cpus`"):
            bind(wrong)
    assert allowed_processors() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds processes")
@pytest.mark.parametrize("error", [PermissionError(1, "not yours"), OSError(22, "not yours")])
def test_a_system_that_forbids_binding_is_told_of(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the option that asked for it: containers forbid it in several ways."""

    def refuse(task: int, processors: object) -> None:
        raise error

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.raises(InvalidRequest, match=r"--cpus.*refuses .*: not yours") as caught:
        bind(allowed_processors())
    assert caught.value.field == "cpus"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds processes")
def test_all_threads_are_bound() -> None:
    """Those that run already, and torch's; in a process of its own."""
    code = """if True:
        import os, threading
        from libertai_engine.processors import allowed_processors, bind
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        one = min(allowed_processors())
        bind((one,))
        print([sorted(os.sched_getaffinity(int(task))) == [one]
               for task in os.listdir("/proc/self/task")])
        end.set()
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[True, True]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_stays_with_the_process() -> None:
    """Megabytes that come and go are no page faults any more, after the first time."""
    code = """if True:
        import resource
        import numpy as np
        from libertai_engine.processors import keep_memory
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                pieces = [np.ones(1 << 18) for _ in range(4)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        is_kept = keep_memory()
        faults()
        print(is_kept, faults())
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    is_kept, faults = out.stdout.split()
    if is_kept == "False":
        pytest.skip("another C library")
    assert int(faults) < 1000  # of 20 * 2048 pages


@pytest.mark.parametrize(("told", "asked", "expected"), [(1, None, 1), (1, 3, 3), (64, None, 0)])
def test_torch_gets_the_threads(told: int, asked: int | None, expected: int) -> None:
    """What was asked for, else no more than there are cores; fewer that somebody set are kept."""
    before = torch.get_num_threads()
    torch.set_num_threads(told)
    try:
        settle(asked, None)
        assert torch.get_num_threads() == (expected or default_threads())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("quota", "most"), [("max", 8), ("150000", 2), ("50000", 1)])
def test_no_more_threads_run_at_once_than_there_are_processors(
    quota: str, most: int, tmp_path: Path
) -> None:
    """Hardware threads count here, and parts of a quota."""
    files = {"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_max": f"{quota} 100000"}
    assert most_threads(machine(tmp_path, HYPER, **files), range(8)) == most


def test_too_many_threads_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with both numbers; as many as there is room for are no word worth."""
    before, most = torch.get_num_threads(), most_threads()
    try:
        settle(most, None)
        assert not caplog.records
        settle(most + 1, None)
    finally:
        torch.set_num_threads(before)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{most + 1} threads (-t) on {most} processors" in record.message


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1])
def test_senseless_numbers_of_threads_are_refused(threads: int) -> None:
    """The threads library would end the process."""
    with pytest.raises(InvalidRequest, match=f"between 1 and {MAX_THREADS}"):
        EngineConfig(threads=threads)


def test_keeping_memory_is_no_error_anywhere() -> None:
    """It says whether it could."""
    assert keep_memory() in (True, False)
