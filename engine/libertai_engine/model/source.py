"""Which files a model's name stands for, and whether they are what they claim to be.

In: the `model` setting. Out: a `ModelSource` that transformers can be pointed at; broken local
files are refused here, with the file's name, before any memory is taken. Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from libertai_engine.errors import ModelLoadError

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"

QUANTIZED_FILE = "quantized.safetensors"
"""Our own codes, by a name that other programs do not take for weights."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_GGUF = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)/([\w./-]+\.gguf)")
_GGUF_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is read from. `gguf_file` is a name inside `place`.

    `place` is a folder if `is_local`, else a hub id; nothing is fetched for a local one.
    """

    name: str
    place: str
    gguf_file: str | None
    is_local: bool


def find_source(model: str) -> ModelSource:
    """A folder, a GGUF file, 'demo', a hub id, or a GGUF file on the hub (`owner/name/file.gguf`).

    Raises `ModelLoadError` if the name is none of these.
    """
    path = DEMO_FOLDER if model == DEMO else Path(model).expanduser()
    if path.is_dir():
        return ModelSource(DEMO if model == DEMO else path.resolve().name, str(path), None, True)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelLoadError(f"{path} is neither a model folder nor a GGUF file")
        return ModelSource(path.stem, str(path.parent), path.name, True)
    if model == DEMO:
        raise ModelLoadError(f"the bundled model is missing from this installation: {path}")
    return _on_hub(model)


def _on_hub(model: str) -> ModelSource:
    if match := _HUB_GGUF.fullmatch(model):
        return ModelSource(Path(model).stem, match[1], match[2], False)
    if _HUB_ID.fullmatch(model) and not model.endswith((".gguf", ".safetensors")):
        return ModelSource(model, model, None, False)
    raise ModelLoadError(f"no model at {model}: neither a folder nor a GGUF file, nor a hub id")


def check_files(source: ModelSource) -> None:
    """Raise `ModelLoadError` if the files of a local model are missing, broken or foreign."""
    if source.gguf_file is not None:
        _check_gguf(Path(source.place, source.gguf_file))
        return
    folder = Path(source.place)
    read_json(folder / "config.json")
    for _ in _tensors(folder):
        pass


def fetch_folder(source: ModelSource, *, local_files_only: bool) -> ModelSource:
    """The same model as a folder of this machine, fetched from the hub if it is there.

    Only settings, tokenizers and safetensors are fetched. A GGUF file must be local already.
    """
    if source.is_local:
        return source
    if source.gguf_file is not None:
        raise ModelLoadError(f"{source.gguf_file} must be a local file to embed with it")
    from huggingface_hub import snapshot_download

    place = snapshot_download(
        source.place,
        allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"],
        ignore_patterns=["onnx/*", "openvino/*"],
        local_files_only=local_files_only,
    )
    return ModelSource(source.name, str(place), None, True)


def count_elements(source: ModelSource) -> int | None:
    """Numbers in a local safetensors checkpoint, from its headers; None for other sources."""
    if not source.is_local or source.gguf_file is not None:
        return None
    return sum(math.prod(shape) for shape in _tensors(Path(source.place)))


def _tensors(folder: Path) -> Iterator[tuple[int, ...]]:
    """Shapes of all tensors in a checkpoint; every header is read and checked on the way."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a mapping
                    yield tuple(weights.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"{path} is corrupt or cut off: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder. Raises `ModelLoadError` if there are none."""
    for name in ("model.safetensors", QUANTIZED_FILE):
        if (folder / name).is_file():
            return [folder / name]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ModelLoadError(_no_weights(folder))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{index} names no weights")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # NOTE: the index decides which files are opened; it must not reach outside its folder.
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelLoadError(f"{index} names `{name}`, which is not in {folder}")
    return [folder / name for name in names]


def _no_weights(folder: Path) -> str:
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        return f"{folder} holds pickled weights only, which may run code; safetensors are needed"
    if ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        return f"{folder} holds GGUF files; name one of them: {', '.join(ggufs)}"
    return f"{folder} holds no model.safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `ModelLoadError`."""
    content = _load_json(path)
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} must hold a JSON object")
    return content


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The JSON array of objects in a file. Raises `ModelLoadError`."""
    content = _load_json(path)
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ModelLoadError(f"{path} must hold a JSON array of objects")
    return content


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(f"{path.parent} holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not readable JSON: {error}") from error


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"GGUF":
        raise ModelLoadError(f"{path} is not a GGUF file")
    if int.from_bytes(head[4:8], "little") not in (2, 3):
        raise ModelLoadError(f"{path} is of a GGUF version that is not supported (2 and 3 are)")
    if _GGUF_PART.search(path.name):
        raise ModelLoadError(f"{path} is one part of a split GGUF file: merge the parts first")
