"""`POST /slots/{id}?action=…`: slots to files in one folder, and back.

In: a slot, an action, a body with `filename`. Out: the JSON object that llama-server answers.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from libertai_engine.engine import Engine
from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.model.slot_file import SlotFile
from libertai_engine.wire.coerce import Body, to_str

ACTIONS = ("save", "restore", "erase")
MAX_FILENAME = 255
# Letters, digits and a few marks; not beginning with a dot, so neither `..` nor hidden files.
_FILENAME = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*")


class SlotActions:
    """What may be done with slots from outside.

    Invariant: only files directly in `folder` are read or written, never through a link.
    """

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        self._engine = engine
        self._folder = folder

    def run(self, slot: int, action: str, body: Any) -> dict[str, Any]:
        """Save, restore or erase. Waits until nobody runs in the slot.

        Raises `NotSupported` if no folder is configured, `InvalidRequest` (`SlotFileError` for what
        is wrong with a file) naming the field.
        """
        _check_action(action)
        if action == "erase":
            return _erased(slot, self._engine.erase_slot(slot))
        name, path, begin = *self._file(body), time.perf_counter()
        move = self._engine.save_slot if action == "save" else self._engine.restore_slot
        return _moved(slot, action, name, move(slot, path), begin)

    async def arun(self, slot: int, action: str, body: Any) -> dict[str, Any]:
        """`run` without blocking the event loop. Cancelled while it waits, it does nothing."""
        _check_action(action)
        if action == "erase":
            return _erased(slot, await self._engine.aerase_slot(slot))
        name, path, begin = *self._file(body), time.perf_counter()
        move = self._engine.asave_slot if action == "save" else self._engine.arestore_slot
        return _moved(slot, action, name, await move(slot, path), begin)

    def _file(self, body: Any) -> tuple[str, Path]:
        name = Body(body).get("filename", to_str, "")
        return name, self._path(name)

    def _path(self, name: str) -> Path:
        if self._folder is None:
            raise NotSupported("this server has no folder for slots: start it with one")
        if len(name) > MAX_FILENAME or not _FILENAME.fullmatch(name):
            raise InvalidRequest(
                "Invalid filename: `filename` must be a plain name", field="filename"
            )
        path = self._folder / name
        if path.is_symlink():
            raise InvalidRequest("Invalid filename: `filename` is a link", field="filename")
        return path


def _check_action(action: str) -> None:
    if action not in ACTIONS:
        raise InvalidRequest(f"`action` must be one of {', '.join(ACTIONS)}", field="action")


def _erased(slot: int, num_erased: int) -> dict[str, Any]:
    return {"id_slot": slot, "n_erased": num_erased}


def _moved(slot: int, action: str, name: str, moved: SlotFile, begin: float) -> dict[str, Any]:
    verbs = ("saved", "written") if action == "save" else ("restored", "read")
    return {
        "id_slot": slot,
        "filename": name,
        f"n_{verbs[0]}": moved.num_tokens,
        f"n_{verbs[1]}": moved.num_bytes,
        "timings": {f"{action}_ms": 1e3 * (time.perf_counter() - begin)},
    }
