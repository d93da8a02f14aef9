"""Where a wrapper's calls go: the one rule for every class of the package.

In: `base_url`, `engine`, `api_key`, and the environment. Out: an `Endpoint` over HTTP, or the model
or engine in this process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from libertai_llm.endpoint import Endpoint
from libertai_llm.errors import InvalidOption

BASE_VARIABLE = "LIBERTAI_API_BASE"
KEY_VARIABLE = "LIBERTAI_API_KEY"
DEMO_MODEL = "demo"


def resolve_target(
    base_url: str | None,
    engine: Any,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    brings_auth: bool = False,
) -> Endpoint | Any:
    """`base_url` → that server; `engine` (a model or an engine) → this process; both → error.

    Neither: the server of `LIBERTAI_API_BASE`, else the bundled demo model with a warning. Without
    `api_key`, a server gets `LIBERTAI_API_KEY`, unless `brings_auth` says that it is authorised
    otherwise. Raises `InvalidOption`.
    """
    if base_url and engine is not None:
        raise InvalidOption("give `base_url` or `engine`, not both", field="base_url")
    if engine is not None:
        return _check_engine(engine)
    base_url = base_url or os.environ.get(BASE_VARIABLE)
    if base_url:
        return _endpoint(base_url, api_key, headers or {}, brings_auth)
    warnings.warn(
        f"neither `base_url` nor `engine` is given and {BASE_VARIABLE} is not set: using the small "
        'bundled demo model in this process (`engine="demo"` says so without this warning)',
        UserWarning,
        stacklevel=4,
    )
    return DEMO_MODEL


def _endpoint(
    base_url: str, api_key: str | None, headers: Mapping[str, str], brings_auth: bool
) -> Endpoint:
    brings_auth = brings_auth or any(name.lower() == "authorization" for name in headers)
    brings_auth = brings_auth or "@" in base_url
    if api_key is None and not brings_auth:
        api_key = os.environ.get(KEY_VARIABLE) or None
    return Endpoint(base_url, api_key=api_key, headers=headers)


def _check_engine(engine: Any) -> Any:
    if isinstance(engine, os.PathLike):
        engine = os.fspath(engine)
    is_engine = hasattr(engine, "tokenizer") and (
        hasattr(engine, "submit") or hasattr(engine, "aembed")
    )
    if not is_engine and not (isinstance(engine, str) and engine):
        raise InvalidOption(
            "`engine` must be a folder, a hub id, a GGUF file, 'demo', an Engine or an Embedder",
            field="engine",
        )
    return engine
