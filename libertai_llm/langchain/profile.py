"""What LangChain's agents and middleware want to know of a model before they use it.

In: where a model's calls go. Out: a `ModelProfile`; what nobody has told yet is left out.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import ModelProfile


def profile_of(engine: Any, max_tokens: int | None) -> ModelProfile:
    """What is true of every model behind these classes, and the context size of an `Engine`.

    Nothing is asked or loaded for it. Give `profile={"max_input_tokens": …}` where middleware has
    to know the context of a server.
    """
    profile = ModelProfile(
        text_inputs=True,
        text_outputs=True,
        image_url_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        pdf_inputs=False,
        tool_calling=True,
        tool_choice=True,
        tool_call_streaming=True,
        structured_output=True,
        temperature=True,
        open_weights=True,
    )
    context_size = getattr(engine, "context_size", None)
    if isinstance(context_size, int):
        profile["max_input_tokens"] = context_size
    if max_tokens is not None and max_tokens > 0:
        profile["max_output_tokens"] = max_tokens
    return profile
