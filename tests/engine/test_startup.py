"""Large modules are imported without looking for garbage meanwhile, and nothing else changes."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from libertai_engine.startup import import_large


@pytest.mark.parametrize("is_wanted", [True, False])
def test_garbage_waits_for_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    """Afterwards it is collected as before, also if the import has failed."""
    name = f"imported_when_{is_wanted}"
    (tmp_path / f"{name}.py").write_text("import gc\nwas_collecting = gc.isenabled()\n")
    (tmp_path / f"{name}_broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        if not is_wanted:
            gc.disable()
        assert import_large(name).was_collecting is False
        assert gc.isenabled() == is_wanted
        with pytest.raises(ImportError, match="nothing_of_this_name"):
            import_large(f"{name}_broken")
        assert gc.isenabled() == is_wanted
    finally:
        gc.enable()
