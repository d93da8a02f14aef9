"""`Libertai`: the LangChain class of the llama-like API's own page, with its field names.

In: prompts. Out: completions. A program that had a copy of that class keeps working with only its
import changed; what the class lacked (cookies that stick, streaming, async, errors) it now has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.language_models import LangSmithParams
from typing_extensions import Self

from libertai_llm.errors import InvalidOption
from libertai_llm.langchain.llms import LibertaiLLM
from libertai_llm.options import CallOptions
from libertai_llm.prompt import merge_stops


class Libertai(LibertaiLLM):
    """`LibertaiLLM` under the page's names and defaults.

    Invariant: `slot_id` is what the user set and never changes: -1 (each conversation keeps its
    own slot) or a slot of the server for all calls. As on the page, stop words given at a call
    replace those of the object. Example:

        openhermes = Libertai(api_base="https://…", max_length=200)
        openhermes.invoke("Hello")
    """

    api_base: str | None = None
    """The server's address; `base_url` elsewhere."""
    max_length: int = 100
    """Most tokens to generate, also for one call; `max_tokens` elsewhere."""
    temperature: float | None = 0.9
    top_p: float | None = 1
    top_k: int | None = 40
    slot_id: int | None = -1
    stop: str | list[str] | None = ["<|"]

    def _address(self) -> str | None:
        return super()._address() or self.api_base

    def _defaults(self) -> dict[str, Any]:
        return {"max_tokens": self.max_length, **super()._defaults()}

    def _call(self, stop: Sequence[str] | None, given: Mapping[str, Any]) -> CallOptions:
        return super()._call(stop, _renamed(given))

    def _with_options(self, given: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        return super()._with_options(_renamed(given))

    def _ls_params(
        self, kind: Literal["chat", "llm"], stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> LangSmithParams:
        return super()._ls_params(kind, stop, _renamed(given))

    def _stops(self, stop: Sequence[str] | str | None) -> list[str]:
        return merge_stops(stop or self.stop)


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """A call's options, its `max_length` as `max_tokens`. Raises `InvalidOption` for both."""
    options = dict(given)
    if "max_length" in options:
        if "max_tokens" in options:
            raise InvalidOption("`max_length` and `max_tokens` are the same", field="max_length")
        options["max_tokens"] = options.pop("max_length")
    return options
