"""The data of one id for an observer of a decode: its place in the model's distribution, and the experts behind it."""

import torch
from torch import Tensor

from gptoss_cli.engine.model import Routing
from gptoss_cli.errors import Hint, NumericalError
from gptoss_cli.generation import LayerExperts, TokenInfo


def token_info(
    id_: int,
    logits: Tensor,
    routing: Routing,
    *,
    experts: int,
    top: int,
    forced: bool = False,
    restricted: bool = False,
) -> TokenInfo:
    """Return the data of `id_` in logits [V] float32.

    `routing` is that of the last token that was read, in layers of `experts`.

    Raises NumericalError if a logit is NaN or infinite.
    """
    # The logsumexp is as accurate as the logits: torch sums pairwise, after it has subtracted the largest.
    logprobs = logits - logits.logsumexp(0)
    logprob = float(logprobs[id_])
    if not bool(logprobs.isfinite().all()):
        raise NumericalError("The model's output is NaN or infinite", Hint.VERIFY)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    return TokenInfo(
        id=id_,
        logprob=logprob,
        rank=1 + int((logprobs > logprob).sum()),
        top=tuple(zip(ids.tolist(), values.tolist(), strict=True)),
        forced=forced,
        restricted=restricted,
        experts=_experts(routing, experts),
    )


def _experts(routing: Routing, count: int) -> tuple[LayerExperts, ...] | None:
    if not routing:
        return None
    # One copy from the device for all layers.
    experts = torch.stack([chosen[-1] for chosen, _ in routing])
    weights, order = torch.stack([weights[-1] for _, weights in routing]).sort(dim=1, descending=True, stable=True)
    return tuple(
        LayerExperts(tuple(chosen), tuple(values), count)
        for chosen, values in zip(experts.gather(1, order).tolist(), weights.tolist(), strict=True)
    )
