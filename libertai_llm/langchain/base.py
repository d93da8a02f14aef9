"""What `ChatLibertai` and `LibertaiLLM` have in common: constructor fields and where calls go.

In: constructor arguments. Out: the options of a call, the connection that carries it, and what
LangChain wants to know of a model's identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.language_models import BaseLanguageModel, LangSmithParams
from langchain_core.utils import secret_from_env
from pydantic import Field, SecretStr, model_validator
from typing_extensions import Self

from libertai_llm._version import __version__
from libertai_llm.connection import Connection, Target
from libertai_llm.langchain.errors import model_errors
from libertai_llm.langchain.options import current_thread
from libertai_llm.options import CallOptions, make_call, split_options
from libertai_llm.settings import PROVIDER, STRICT, ModelSettings, split_credentials
from libertai_llm.target import BASE_VARIABLE, DEMO_MODEL

# What LangChain derives from the other fields and remembers.
_DERIVED = "_serialized"


class BaseLibertai(ModelSettings, BaseLanguageModel):  # type: ignore[type-arg]
    """The settings of a model, as LangChain wants them.

    Invariant: that of `ModelSettings`. The errors of calls are also LangChain's.
    """

    model_config = STRICT

    api_key: SecretStr | None = Field(
        default_factory=secret_from_env("LIBERTAI_API_KEY", default=None)
    )
    """Sent as a Bearer token. Default: `LIBERTAI_API_KEY`."""
    streaming: bool = False
    """Stream inside `invoke` as well, so that callbacks see each token."""
    system_prompt: dict[str, str] | None = None

    @model_validator(mode="after")
    def _set_libertai_version(self) -> Self:
        self._add_version("libertai-llm", __version__)
        return self

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Models can be written as JSON, secrets as names, and read with `load`."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Fields that are written as the name of an environment variable."""
        return {"api_key": "LIBERTAI_API_KEY"}

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own token ids of a text, without any that the server would add."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._connect().tokenize(text)

    def _defaults(self) -> dict[str, Any]:
        own = {"system_prompt": self.system_prompt} if self.system_prompt is not None else {}
        return super()._defaults() | own

    def _call(self, stop: Sequence[str] | None, given: Mapping[str, Any]) -> CallOptions:
        """What one call asks for. Raises `UnknownOption` naming an option that is none."""
        return make_call(self._defaults(), self._stops(stop), given, current_thread())

    def _new_connection(self, target: Target) -> Connection:
        return Connection(target, self.sessions, model_errors)

    def _identity(self) -> dict[str, Any]:
        """Everything that can change an answer, and nothing else: no key, no cookie, no slot."""
        options = {name: value for name, value in self._defaults().items() if name != "slot_id"}
        if self.engine is not None:
            return options | {"engine": getattr(self.engine, "name", self.engine)}
        address = self._address() or os.environ.get(BASE_VARIABLE)
        if not address:
            return options | {"engine": DEMO_MODEL}
        # NOTE: the environment's address may hold a password, and this is shown in traces.
        return options | {"base_url": split_credentials(address)[1]}

    def _ls_params(
        self, kind: Literal["chat", "llm"], stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> LangSmithParams:
        """What a trace says of a call, overrides at the call included."""
        options = {**self._defaults(), **split_options(given)[0]}
        params = LangSmithParams(ls_provider=PROVIDER, ls_model_name=self._reported_name(options))
        params["ls_model_type"] = kind
        if options.get("temperature") is not None:
            params["ls_temperature"] = options["temperature"]
        if options.get("max_tokens") is not None:
            params["ls_max_tokens"] = options["max_tokens"]
        if stops := self._stops(stop if stop is not None else given.get("stop")):
            params["ls_stop"] = stops
        return params

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        state["__dict__"].pop(_DERIVED, None)
        return state
