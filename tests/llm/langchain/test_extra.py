"""The LangChain classes where LangChain is not installed."""

from __future__ import annotations

import subprocess
import sys


def test_without_langchain() -> None:
    """The plain package says what to install."""
    code = "import sys; sys.modules['langchain_core'] = None; import libertai_llm.langchain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert last.endswith("pip install 'libertai-llm[langchain]'")
