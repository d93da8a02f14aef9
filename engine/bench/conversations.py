"""Twenty conversations on four slots: what the host store of prefixes saves.

Run: python engine/bench/conversations.py [--conversations N] [--turns N] [--out FOLDER]
In: flags. Out: a table on the terminal, and conversations.md and .json in the folder. Counts are of
prompt tokens and exact; times are of this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from libertai_engine import Engine, EngineConfig, Request, SamplingParams, load_engine

RESULTS = Path(__file__).parent / "results"
NUM_SLOTS = 4
OPENING = 200  # prompt tokens of a first turn
QUESTION = 30  # new prompt tokens of each later turn
ANSWER = 16
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, ignore_eos=True)


@dataclass(frozen=True)
class Outcome:
    """Prompt tokens over all turns: how many there were, were new, were evaluated; and seconds."""

    store_mib: int
    prompt_tokens: int
    new_tokens: int
    evaluated_tokens: int
    seconds: float

    @property
    def recomputed_tokens(self) -> int:
        """Tokens evaluated although an earlier turn of the conversation had done so."""
        return self.evaluated_tokens - self.new_tokens


def converse(engine: Engine, conversations: int, turns: int, store_mib: int) -> Outcome:
    """All conversations in turns, one request at a time, so that each loses its slot to others."""
    histories = [
        [(7 * number + 3 * place) % 900 + 50 for place in range(OPENING)]
        for number in range(conversations)
    ]
    prompt_tokens = evaluated = new = 0
    begin = time.perf_counter()
    with tqdm(total=turns * conversations, unit="turn", desc=f"store of {store_mib} MiB") as bar:
        for turn in range(turns):
            for number, history in enumerate(histories):
                if turn:
                    history += [(11 * number + place) % 900 + 50 for place in range(QUESTION)]
                request = Request(prompt_ids=tuple(history), sampling=GREEDY, max_tokens=ANSWER)
                deltas = list(engine.submit(request))
                finish = deltas[-1].finish
                assert finish is not None
                prompt_tokens += finish.num_prompt_tokens
                evaluated += finish.num_prompt_tokens - finish.num_cached
                # The last token of an answer is sampled, not evaluated: new to the next turn.
                new += OPENING if turn == 0 else QUESTION + 1
                history += [token.token_id for delta in deltas for token in delta.tokens]
                bar.update()
    return Outcome(store_mib, prompt_tokens, new, evaluated, time.perf_counter() - begin)


def to_table(outcomes: list[Outcome], conversations: int, turns: int) -> str:
    """A Markdown table, one line a store."""
    lines = [
        f"{conversations} conversations of {turns} turns on {NUM_SLOTS} slots, in turns:",
        "",
        "| host store | prompt tokens | new | evaluated | recomputed | seconds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.store_mib or 'none'}{' MiB' if each.store_mib else ''} | {each.prompt_tokens} "
        f"| {each.new_tokens} | {each.evaluated_tokens} | {each.recomputed_tokens} "
        f"| {each.seconds:.1f} |"
        for each in outcomes
    ]
    return "\n".join(lines)


def main() -> None:
    """Run with and without the store on the same random model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    disable_progress_bar()
    outcomes = []
    for store_mib in (0, 512):
        config = EngineConfig(model="demo", num_slots=NUM_SLOTS, prefix_store_bytes=store_mib << 20)
        with load_engine(config, progress=False) as engine:
            outcomes.append(converse(engine, args.conversations, args.turns, store_mib))
    table = to_table(outcomes, args.conversations, args.turns)
    print(f"\n{table}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "conversations.md").write_text(table + "\n")
    rows = [asdict(each) | {"recomputed_tokens": each.recomputed_tokens} for each in outcomes]
    (args.out / "conversations.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
