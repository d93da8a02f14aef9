"""Models on disk, each made when it is first needed and kept for the next run.

In: the name of a shape and a precision. Out: a folder for transformers and us, a GGUF file for
llama.cpp.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from speed.gguf_file import write_gguf
from speed.shapes import SHAPES, write_model

PEERS_OF_GGUF = ("llama.cpp",)


class Shelf:
    """A folder of models. Invariant: what has its final name there is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, side: str, model: str, precision: str) -> Path:
        """What this side loads."""
        if side in PEERS_OF_GGUF:
            return self.gguf(model, precision)
        return self.folder(model)

    def folder(self, model: str) -> Path:
        """Safetensors in bf16, configuration and tokenizer."""
        path = self._folder / model
        if not path.exists():
            unfinished = self._folder / f"{model}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            write_model(SHAPES[model], unfinished)
            unfinished.rename(path)
        return path

    def gguf(self, model: str, precision: str) -> Path:
        """The same weights for llama.cpp."""
        path = self._folder / f"{model}-{precision}.gguf"
        if not path.exists():
            unfinished = self._folder / f"{model}-{precision}.unfinished"
            write_gguf(SHAPES[model], self.folder(model), unfinished, precision)
            unfinished.rename(path)
        return path
