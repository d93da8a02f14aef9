"""How a folder wants its model's outputs to become one vector, as sentence-transformers writes it.

In: a folder with `modules.json`, `1_Pooling/config.json` and the like, or without. Out: a `Recipe`,
or a `ModelLoadError` naming the file that asks for something that is not done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libertai_engine.errors import ModelLoadError
from libertai_engine.model.pooling import POOLINGS
from libertai_engine.model.source import read_json, read_json_list

# The older spelling of `pooling_mode`, in the order in which several are put side by side.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Names under which models keep what belongs in front of a document. NOTE: sentence-transformers
# says so, too, but looks at the first one only.
_DOCUMENT = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """From hidden states to a vector: pool, project by each of `denses`, normalise.

    The default is what a folder without such files gets: the mean of all tokens, of length 1.
    `max_tokens` None: what the tokenizer and the model allow. `query_prompt` and `document_prompt`
    stand in front of such texts, `prompt` in front of those of which nothing is said. `transformer`
    is the folder of the model itself.
    """

    transformer: Path
    pooling: tuple[str, ...] = ("mean",)
    denses: tuple[Path, ...] = ()
    normalize: bool = True
    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""
    query_prompt: str = ""
    document_prompt: str = ""


@dataclass
class _Modules:
    """The chain of modules as far as it is read; every kind may come where it makes sense only."""

    transformer: Path
    pooling: tuple[str, ...] | None = None
    include_prompt: bool = True
    denses: list[Path] = field(default_factory=list)
    normalize: bool = False


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a folder. Raises `ModelLoadError`."""
    if not (folder / "modules.json").is_file():
        return Recipe(transformer=folder, **_texts(folder, folder))
    modules = _read_modules(folder)
    texts = _texts(folder, modules.transformer)
    if not modules.include_prompt and any(isinstance(v, str) and v for v in texts.values()):
        raise ModelLoadError(f"{folder}: a pooling that leaves the prompt out is not supported")
    return Recipe(
        transformer=modules.transformer,
        pooling=modules.pooling or ("mean",),
        denses=tuple(modules.denses),
        normalize=modules.normalize,
        **texts,
    )


def _read_modules(folder: Path) -> _Modules:
    listed = read_json_list(folder / "modules.json")
    modules: _Modules | None = None
    for each in listed:
        kind = str(each.get("type", "")).rpartition(".")[2]
        place = _inside(folder, str(each.get("path", "")))
        if modules is None and kind == "Transformer":
            modules = _Modules(transformer=place)
        elif modules is not None and kind == "Pooling" and modules.pooling is None:
            modules.pooling, modules.include_prompt = _read_pooling(place / "config.json")
        elif modules is not None and kind == "Dense" and not modules.normalize:
            modules.denses.append(place)
        elif modules is not None and kind == "Normalize":
            modules.normalize = True
        else:
            raise ModelLoadError(
                f"{folder / 'modules.json'} asks for `{kind}` here, which is not supported"
            )
    if modules is None or modules.pooling is None:
        raise ModelLoadError(f"{folder / 'modules.json'} names no transformer with a pooling")
    return modules


def _inside(folder: Path, path: str) -> Path:
    # NOTE: the file decides what is opened; it must not reach outside its folder.
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ModelLoadError(f"{folder / 'modules.json'} names `{path}`, outside of its folder")
    return place


def _read_pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    """Names of poolings, and whether the prompt's tokens take part."""
    config = read_json(path)
    given = config.get("pooling_mode")
    if given is None:
        given = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = tuple([given] if isinstance(given, str) else given)
    for mode in modes:
        if mode not in POOLINGS:
            raise ModelLoadError(f"{path}: no pooling is called `{mode}`")
    return modes, config.get("include_prompt") is not False


def _texts(folder: Path, transformer: Path) -> dict[str, Any]:
    """What is done with texts before the model sees them."""
    settings = _first_json(sorted(transformer.glob("sentence_*_config.json")))
    config = _first_json([folder / "config_sentence_transformers.json"])
    prompts = config.get("prompts")
    prompts = prompts if isinstance(prompts, Mapping) else {}
    default = config.get("default_prompt_name")
    document = next((name for name in _DOCUMENT if prompts.get(name)), "")
    limit = settings.get("max_seq_length")
    return {
        "max_tokens": limit if isinstance(limit, int) and limit > 0 else None,
        "lower_case": settings.get("do_lower_case") is True,
        "prompt": _text(prompts, default),
        "query_prompt": _text(prompts, "query"),
        "document_prompt": _text(prompts, document),
    }


def _first_json(paths: list[Path]) -> dict[str, Any]:
    found = next((path for path in paths if path.is_file()), None)
    return {} if found is None else read_json(found)


def _text(prompts: Mapping[str, Any], name: Any) -> str:
    found = prompts.get(name)
    return found if isinstance(found, str) else ""
