"""The explained scalars and their derivative by the logits, against autograd and against 60-digit arithmetic."""

from __future__ import annotations

import pytest
import torch

from salience.engine.scalars import check_output, cotangent, one_hot, score, scores
from salience.errors import SettingsError

OUTPUTS = ("logit", "prob", "logprob", "margin")


def ordinary() -> torch.Tensor:
    return 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def extreme() -> torch.Tensor:
    rows = [[50, -50, 0, 1, 2], [-50, -50, -50, -50, 50], [50, 50, -50, 0, 0], [50, 49, 48, -50, 3], [0, 0, 0, 0, 0]]
    return torch.tensor(rows, dtype=torch.float64)


def weightings(z: torch.Tensor) -> list[torch.Tensor]:
    n, c = z.shape
    drawn = torch.randn(n, c, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = [one_hot(torch.full((n,), k), c) for k in range(c)]
    return [*each, each[0] - 1 / c, drawn]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("logits", [ordinary, extreme])
def test_score_and_derivative_are_autograd_s(output: str, logits) -> None:
    z = logits()
    for weights in weightings(z):
        leaf = z.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for i in range(len(z)):
            row = leaf[i]
            for c in range(z.shape[1]):
                others = torch.cat([row[:c], row[c + 1 :]])
                value = {
                    "logit": lambda row=row, c=c: row[c],
                    "prob": lambda row=row, c=c: row.softmax(0)[c],
                    "logprob": lambda row=row, c=c: row.log_softmax(0)[c],
                    "margin": lambda row=row, c=c, others=others: row[c] - others.logsumexp(0),
                }[output]()
                total = total + weights[i, c] * value
                found = score(output, z[i : i + 1], torch.tensor([c]))
                torch.testing.assert_close(found[0], value.detach(), rtol=1e-12, atol=1e-12)
        expected = torch.autograd.grad(total, leaf)[0]
        torch.testing.assert_close(cotangent(output, z, weights), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("logits", [ordinary, extreme])
def test_derivative_keeps_its_digits_where_the_model_is_sure(output: str, logits) -> None:
    """Autograd itself loses 1 - p when p is near one; the derivative is right to the relative precision of float64."""
    mpmath = pytest.importorskip("mpmath")
    z = logits()
    with mpmath.workdps(60):
        for weights in weightings(z):
            found = cotangent(output, z, weights)
            for i in range(len(z)):
                row = [mpmath.mpf(float(v)) for v in z[i]]
                w = [mpmath.mpf(float(v)) for v in weights[i]]
                e = [mpmath.exp(v) for v in row]
                total = mpmath.fsum(e)
                p = [v / total for v in e]
                count = len(row)
                for k in range(count):
                    terms = []
                    for c in range(count):
                        same = 1 if c == k else 0
                        if output == "logit":
                            slope = mpmath.mpf(same)
                        elif output == "logprob":
                            slope = same - p[k]
                        elif output == "prob":
                            slope = p[c] * (same - p[k])
                        elif c == k:
                            slope = mpmath.mpf(1)
                        else:
                            slope = -e[k] / mpmath.fsum(e[j] for j in range(count) if j != c)
                        terms.append(w[c] * slope)
                    true = mpmath.fsum(terms)
                    # what one-hot weights ask for has no cancellation of its own; sums of several classes may
                    plain = sum(abs(v) for v in w) == 1
                    near = (
                        abs(true) * mpmath.mpf("1e-12") if plain else max(abs(t) for t in terms) * mpmath.mpf("1e-12")
                    )
                    assert abs(mpmath.mpf(float(found[i, k])) - true) <= near + mpmath.mpf("1e-300"), (output, i, k)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("logits", [ordinary, extreme])
def test_many_targets_are_scored_as_each_alone(output: str, logits) -> None:
    z = logits()
    targets = torch.stack([torch.arange(5).roll(i)[:4] for i in range(len(z))])
    found = scores(output, z, targets)
    assert found.shape == (len(z), 4)
    for t in range(4):
        assert torch.equal(found[:, t], score(output, z, targets[:, t]))
    last = score(output, z, torch.full((len(z),), 4))
    every = scores(output, z, torch.arange(5).expand(len(z), 5))
    assert torch.equal(every[:, 4], last)


def test_float32_logits_are_computed_in_float64() -> None:
    z = extreme()
    for output in OUTPUTS:
        for weights in weightings(z):
            narrow = cotangent(output, z.float(), weights)
            assert narrow.dtype == torch.float32
            torch.testing.assert_close(narrow.double(), cotangent(output, z, weights), rtol=1e-6, atol=1e-45)


def test_names() -> None:
    assert [check_output(o) for o in OUTPUTS] == list(OUTPUTS)
    with pytest.raises(SettingsError, match=r"'logits'.*logit"):
        check_output("logits")
