"""The scalar that is explained, as a function of the logits, and its derivative by them.

``S_c(z)`` for class c: ``logit`` z_c; ``logprob`` log softmax(z)_c; ``prob`` softmax(z)_c; ``margin``
z_c - logsumexp of all other logits. A weighted sum ``sum_c w_c S_c`` covers every use: ``w = e_t`` explains the
target, ``w = e_t - 1/C`` contrasts it with all classes, ``w = e_c`` explains a rival.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from salience.errors import SettingsError, nearest

Output = Literal["logit", "prob", "logprob", "margin"]


def check_output(name: str) -> Output:
    """Return ``name`` where it is one of the outputs that can be explained."""
    for known in get_args(Output):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise SettingsError(
        f"Output {name!r} is unknown; choose one of {', '.join(get_args(Output))}.{nearest(name, get_args(Output))}"
    )


def score(output: Output, logits: Tensor, target: Tensor) -> Tensor:
    """Return the scalar (N,) of classes ``target`` (N,) for logits (N, C)."""
    return scores(output, logits, target.unsqueeze(1)).squeeze(1)


def scores(output: Output, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the scalars (N, T) of classes ``targets`` (N, T) for logits (N, C)."""
    z = logits.gather(1, targets)
    if output == "logit":
        return z
    if output == "margin":
        # log(sum of the others) = lse + log(1 - p_t); of the largest class 1 - p has lost its digits
        top = logits.argmax(1, keepdim=True)
        behind = logits.scatter(1, top, float("-inf")).logsumexp(1, keepdim=True)
        whole = logits.logsumexp(1, keepdim=True)
        others = whole + torch.log1p(-(z - whole).exp().clamp_max(1 - torch.finfo(z.dtype).eps))
        return z - torch.where(targets == top, behind, others)
    logprob = z - logits.logsumexp(1, keepdim=True)
    return logprob if output == "logprob" else logprob.exp()


def all_scores(output: Output, logits: Tensor) -> Tensor:
    """Return the scalars (N, C) of every class."""
    every = torch.arange(logits.shape[1], device=logits.device)
    return scores(output, logits, every.expand(logits.shape))


def cotangent(output: Output, logits: Tensor, weights: Tensor) -> Tensor:
    """Return d(sum_c weights_c S_c)/dz, shape (N, C), computed in float64 and returned in the logits' type."""
    if output == "logit":
        return weights.to(logits.dtype)
    z, w = logits.double(), weights.double()
    p = z.softmax(1)
    # Where the model is sure, 1 - p of the largest class has lost its digits (all of them beyond a lead of 37): sums
    # over the other classes take its place in each formula.
    top = p.argmax(1, keepdim=True)
    rest = p.scatter(1, top, 0.0).sum(1, keepdim=True)
    if output == "logprob":
        total = w.sum(1, keepdim=True)
        v = (w - p * total).scatter(1, top, rest * total - w.scatter(1, top, 0.0).sum(1, keepdim=True))
    elif output == "prob":
        # the same for w and w plus a constant, the probabilities having the sum one
        lead = w - w.gather(1, top)
        v = p * (lead - (p * lead).sum(1, keepdim=True))
    else:
        # d(-logsumexp of the others of c)/dz_k = -p_k / (1 - p_c) for k != c; of the largest class, that is the
        # softmax of all but it
        share = (w / (1 - p)).scatter(1, top, 0.0)
        behind = z.scatter(1, top, float("-inf")).softmax(1)
        v = w - w.gather(1, top) * behind - p * (share.sum(1, keepdim=True) - share)
    return v.to(logits.dtype)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Return float64 (N, classes) with a one at each target."""
    out = torch.zeros(len(target), classes, dtype=torch.float64, device=target.device)
    return out.scatter_(1, target.unsqueeze(1), 1.0)
