"""The machine in general words, and the versions that matter.

In: nothing. Out: names and values for tables.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> dict[str, str]:
    """In two lines, for tables that need no more."""
    import torch
    import transformers

    device = "CUDA GPU" if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return {
        "machine": f"{os.cpu_count()} cores, {device}, {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def described(threads: int) -> dict[str, str]:
    """Processor, features for matrices, memory, threads, versions."""
    found = {
        "processor": _processor(),
        "features": ", ".join(_features()) or "unknown",
        "threads of every side": str(threads),
        "memory": _memory(),
        "versions": machine()["versions"],
    }
    try:
        found["peers"] = f"llama.cpp of llama-cpp-python {version('llama_cpp_python')}"
    except PackageNotFoundError:
        found["peers"] = _unpackaged()
    return found


def _unpackaged() -> str:
    try:
        import llama_cpp
    except Exception:
        return "no llama.cpp here"
    return f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"


def _cpuinfo(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(name)]
    return found[0] if found else ""


def _processor() -> str:
    return f"{os.cpu_count()} cores of {_cpuinfo('model name') or platform.processor()}"


def _features() -> list[str]:
    flags = _cpuinfo("flags").split()
    names = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return [name for name in names if name in flags]


def _memory() -> str:
    import psutil

    return f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
