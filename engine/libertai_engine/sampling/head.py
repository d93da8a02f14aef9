"""The top of the vocabulary in place of all of it, where that makes no difference.

In: logits over a large vocabulary, for chains that begin with top_p or min_p. Out: a few candidates
a row, and whether they are enough. Sorting 128,000 logits costs a hundred times as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from libertai_engine.sampling.candidates import Candidates, top_candidates
from libertai_engine.sampling.chain import Chain
from libertai_engine.sampling.transforms import min_p

HEAD = 256  # more than `min_keep` can be


def head_candidates(
    logits: torch.Tensor, chains: Sequence[Chain]
) -> tuple[Candidates, torch.Tensor]:
    """Candidates `[rows, HEAD + 1]` and for each row `[rows]` whether they are enough.

    They are if the first filter certainly removes everything below the head. For top_p a last
    candidate stands for all the others together, so that probabilities come out right; it is
    removed with them. `logits` is `[rows, vocab]`, `chains` are of one kind.
    """
    head = top_candidates(logits, HEAD)
    setting = torch.tensor([chain.settings[0] for chain in chains], dtype=torch.float64)
    best = head.logits[:, :1]
    weights = (head.logits - best).exp()  # [rows, HEAD]
    if chains[0].filters[0] is min_p:
        return head, (weights[:, -1:] < setting).flatten()
    # NOTE: sums in the order of the columns, not in a tree: the same bits in any batch.
    inside = weights.cumsum(dim=-1)[:, -1:]
    total = (logits.cpu().double() - best).exp().cumsum(dim=-1)[:, -1:]
    rest = (total - inside).clamp_min(0)
    candidates = Candidates(
        torch.cat((head.logits, best + rest.log()), dim=-1),
        torch.cat((head.ids, torch.zeros_like(head.ids[:, :1])), dim=-1),
    )
    # NOTE: a hair more than p, so that no rounding of the filter's own sum reaches the last one.
    return candidates, (inside > (setting + 1e-9) * (inside + rest)).flatten()
