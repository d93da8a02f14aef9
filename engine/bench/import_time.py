"""How much longer `import libertai_llm` takes than `import requests`.

Run: python engine/bench/import_time.py
In: nothing. Out: medians of fresh interpreters, in turns; exit code 1 if the limit is passed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

LIMIT_MS = 150.0
ROUNDS = 15
MODULES = ("requests", "libertai_llm")
CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_ms(module: str) -> float:
    """Milliseconds of one import in an interpreter of its own."""
    command = [sys.executable, "-c", CODE.format(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1e3 * float(done.stdout)


def measure(rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each module, measured in turns after one warm-up each."""
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for number in range(rounds + 1):
        for module in MODULES:
            took = import_ms(module)
            if number:
                times[module].append(took)
    return {module: statistics.median(values) for module, values in times.items()}


def main() -> int:
    """Print the figures; 1 if the limit is passed."""
    medians = measure()
    extra = medians["libertai_llm"] - medians["requests"]
    for module, median in medians.items():
        print(f"import {module:13} {median:6.0f} ms (median of {ROUNDS})")
    print(f"difference           {extra:6.0f} ms (limit {LIMIT_MS:.0f} ms)")
    return int(extra > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
