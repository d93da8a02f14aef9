"""What importing the client costs a program that only wanted `requests`."""

from __future__ import annotations

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource")


def cpu_seconds(statement: str) -> float:
    """Processor time of a fresh interpreter that runs one statement, the best of five."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", statement], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    return min(once() for _ in range(5))


def test_importing_the_client_is_quick() -> None:
    """Less than 150 ms more than `import requests` (processor time: the machine may be busy)."""
    cpu_seconds("import libertai_llm")  # once to write the bytecode
    assert cpu_seconds("import libertai_llm") - cpu_seconds("import requests") < 0.150
