"""Importing what is large, as torch and transformers are.

In: a module's name. Out: the module. What is imported stays, in a million objects: looking for
garbage among them again and again, as Python does, was a fifth of the time that it took.
"""

from __future__ import annotations

import gc
import importlib
from types import ModuleType


def import_large(name: str) -> ModuleType:
    """Import a module and all it needs; garbage is collected afterwards. Raises `ImportError`."""
    if not gc.isenabled():  # whoever switched it off does not want it on
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()
