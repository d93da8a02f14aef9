"""Does a server with the same model answer alike? In: a model folder, a URL. Out: counts.

    python convert_hf_to_gguf.py engine/libertai_engine/demo_model --outfile demo.gguf --outtype f32
    llama-server --model demo.gguf --port 8080
    python engine/demo/compare.py engine/libertai_engine/demo_model http://127.0.0.1:8080

Held-out questions of every kind: the tokens of the prompt, and the greedy answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_llm import Client
from libertai_llm.prompt import ChatTemplate
from questions import KINDS_OF_QUESTIONS, questions

GREEDY: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": 80}


def compare(folder: Path, url: str, count: int, seed: int) -> tuple[int, int, int]:
    """Return how many questions were asked, cut into the same tokens, and answered alike."""
    asked = cut = alike = 0
    # NOTE: in fp32, as the server; in bf16, answers the model is unsure of differ here and there.
    config = EngineConfig(model=str(folder), dtype="fp32")
    with (
        load_engine(config, progress=False) as engine,
        Client(engine=engine) as own,
        Client(base_url=url) as other,
    ):
        props = own.props()
        template = ChatTemplate(props.chat_template, props.bos_token or "", props.eos_token or "")
        for kind in KINDS_OF_QUESTIONS:
            for question in questions(kind, count, seed):
                prompt = template.render(question.chat, question.tools or None)
                ids = [each.tokenize(prompt, add_special=True) for each in (own, other)]
                given = [
                    each.complete(prompt, stop=template.stops, **GREEDY).content.strip()
                    for each in (own, other)
                ]
                asked, cut = asked + 1, cut + (ids[0] == ids[1])
                alike += given[0] == given[1]
                if given[0] != given[1]:
                    print(f"{kind}: {given[0]!r}\n{'':{len(kind)}}  {given[1]!r}")
    return asked, cut, alike


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=3, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    asked, cut, alike = compare(args.folder, args.url, args.count, args.seed)
    print(f"{asked} questions: {cut} prompts of the same tokens, {alike} answers alike")


if __name__ == "__main__":
    main()
