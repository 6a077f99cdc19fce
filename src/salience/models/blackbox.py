"""Models of which nothing but outputs is known, as torch modules: batches out, scores back, both checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from salience.errors import ModelError, SalienceWarning
from salience.models.account import Account
from salience.models.asking import as_answered
from salience.models.journal import row_keys

Array = npt.NDArray[Any]
Scores = Literal["logits", "probabilities"]

LEAST_PROBABILITY = 1e-12
_BELOW_ZERO = -1e-4
_OFF_ONE = 1e-2


class BlackBox(nn.Module):
    """A model that is asked for scores and nothing else.

    Parameters
    ----------
    ask
        Takes normalised images (N, 3, H, W), a contiguous float32 tensor on whatever device, returns scores (N, C).
    identity
        Returns bytes that are the same in every process and change when the model does.
    name
        What is asked, for messages.
    scores
        ``logits``, or ``probabilities``: these are checked and turned into log-probabilities,
        ``log(max(p, 1e-12))``, whose softmax are the probabilities again, so every scalar of them is right.
    batch
        The one number of images that ``ask`` takes: more are sent in parts, fewer are filled up by repeating the last.
    usual_batch
        The number of images that is sent where none is asked for and none may be measured.
    classes
        Number of classes where it is known.
    account
        Counts and limits what is sent, where ``ask`` charges it.
    paid
        Whether asking costs something: equal rows of a batch, as its padding has them, are then sent once, rows that
        the run's journal has answers for not at all, and nothing is asked to measure the model.
    side_by_side
        Whether several threads may ask at a time.
    connections
        So many parts of a batch are asked for at a time, each by a thread of its own.

    Notes
    -----
    A row of which any score is NaN or infinite passes as it is: the engine makes a failure of that image alone.
    """

    def __init__(
        self,
        ask: Callable[[Tensor], Any],
        identity: Callable[[], bytes],
        *,
        name: str,
        scores: Scores = "logits",
        batch: int | None = None,
        usual_batch: int | None = None,
        classes: int | None = None,
        account: Account | None = None,
        paid: bool = False,
        side_by_side: bool = False,
        connections: int = 1,
    ) -> None:
        super().__init__()
        self.name = name
        self.scores = scores
        self.batch = batch
        self.usual_batch = usual_batch
        self.classes = classes
        self.account = account
        self.paid = paid
        self.side_by_side = side_by_side
        self.connections = connections
        self._ask = (ask,)  # in a tuple, so that a module in there is not taken for a part of this one
        self._identity = identity
        self._doubted = False

    def extra_repr(self) -> str:
        """Show what decides how answers are read."""
        return f"scores={self.scores}"

    def __fingerprint__(self) -> bytes:
        """Return what :meth:`salience.models.classifier.Classifier.fingerprint` hashes in place of weights."""
        return self._identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits or log-probabilities (N, C), float32, of normalised images (N, 3, H, W)."""
        images = images.detach().float().contiguous()
        found = self._unanswered(images, self.account) if self.paid and self.account else self._answer(images)
        return self._read(found).to(images.device)

    # ------------------------------------------------------------------ asking

    def _answer(self, images: Tensor) -> Tensor:
        """Ask for all rows; return raw scores (N, C) in float32."""
        found = {part.start: scores for part, scores in self._answers(images)}
        return torch.cat([found[start] for start in sorted(found)])

    def _answers(self, images: Tensor) -> Iterator[tuple[range, Tensor]]:
        """Ask for all rows, in parts; yield rows and their raw scores in float32, as they come."""
        rows = len(images)
        size = self.batch or max(1, -(-rows // self.connections))
        parts = [range(at, min(rows, at + size)) for at in range(0, rows, size)]
        asked = [self._full(images[part.start : part.stop]) for part in parts]

        def read(number: int, answer: Any) -> Tensor:
            return self._checked(answer, len(asked[number]))[: len(parts[number])]

        for number, scores in as_answered(self._ask_alone, asked, read, self.connections):
            yield parts[number], scores

    def _ask_alone(self, images: Tensor) -> Any:
        with torch.no_grad():  # each thread has a mode of its own
            return self._ask[0](images)

    def _full(self, images: Tensor) -> Tensor:
        """Fill up images to the one number that can be asked for, by repeating the last."""
        missing = (self.batch or len(images)) - len(images)
        return images if not missing else torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])

    def _unanswered(self, images: Tensor, account: Account) -> Tensor:
        """Ask for the rows that differ from all others and were not answered before."""
        keys = row_keys(images.cpu().numpy())
        known = account.find(dict.fromkeys(keys))
        missing: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, row)
        wanted = list(missing)
        if wanted:
            for part, scores in self._answers(images[list(missing.values())]):
                # kept as they come; a single connection asks for nothing more before
                answers = dict(zip(wanted[part.start : part.stop], scores.cpu().numpy(), strict=True))
                account.add(answers)
                known |= answers
        return torch.from_numpy(np.stack([known[key] for key in keys]))

    # ------------------------------------------------------------------ what came back

    def _checked(self, answer: Any, rows: int) -> Tensor:
        """Return an answer as float32 scores (rows, C)."""
        found = _tensor(answer)
        if found is None:
            raise ModelError(
                f"{self.name} returned {_described(answer)}; real numbers (N, C) are needed, one row for each image, "
                "as a NumPy array or a torch tensor."
            )
        if found.ndim != 2 or len(found) != rows or found.shape[1] < 2:
            raise ModelError(
                f"{self.name} returned scores of shape {tuple(found.shape)} for {rows} images; ({rows}, C) with at "
                "least two classes is needed, one row for each image in the order they were sent."
            )
        if self.classes is None:
            self.classes = found.shape[1]
        if found.shape[1] != self.classes:
            raise ModelError(
                f"{self.name} returned {found.shape[1]} classes; {self.classes} are known from its class names or its "
                "first answer. Every answer needs the same number, in the same order."
            )
        if self.scores == "probabilities":
            self._check_probabilities(found)
        else:
            self._doubt(found)
        return found.float()

    def _check_probabilities(self, found: Tensor) -> None:
        p = found[torch.isfinite(found).all(1)].double()
        if not len(p):
            return
        total = p.sum(1)
        worst = int((total - 1).abs().argmax())
        if float(p.min()) < _BELOW_ZERO or abs(float(total[worst]) - 1) > _OFF_ONE:
            raise ModelError(
                f"{self.name} was declared to return probabilities, but a row has the sum {float(total[worst]):.4g} "
                f"(1 within {_OFF_ONE} is needed) and the smallest score is {float(p.min()):.4g} (0 or more is "
                "needed). Where these are scores before a softmax, declare logits: logits=True, or scores = 'logits' "
                "in the card."
            )

    def _doubt(self, found: Tensor) -> None:
        """Warn once where scores declared as logits look like probabilities: their softmax would be nearly flat."""
        if self._doubted:
            return
        self._doubted = True
        z = found[torch.isfinite(found).all(1)].double()
        if len(z) and bool((z >= 0).all()) and bool(((z.sum(1) - 1).abs() < 1e-3).all()):
            warnings.warn(
                f"{self.name} is declared to return logits, but its scores are 0 or more and add up to 1, as "
                "probabilities do. Where they are, declare them: logits=False, or scores = 'probabilities' in the "
                "card.",
                SalienceWarning,
                stacklevel=2,
            )

    def _read(self, found: Tensor) -> Tensor:
        """Turn raw scores into logits: the logarithm of probabilities; rows that are not finite stay so."""
        if self.scores == "logits":
            return found
        logs = found.double().clamp_min(LEAST_PROBABILITY).log().float()
        return torch.where(torch.isfinite(found), logs, torch.nan)


def _tensor(answer: Any) -> Tensor | None:
    """Copy an answer to a tensor of real numbers; None where it holds something else.

    A copy, because a function may write its next answer into the same memory.
    """
    if isinstance(answer, Tensor):
        return None if answer.is_complex() or answer.dtype == torch.bool else answer.detach().clone()
    try:
        array = np.asarray(answer)
    except ValueError:  # rows of different lengths
        return None
    if array.dtype.kind not in "fiu":
        return None
    kept = array.dtype.kind == "f" and array.dtype.itemsize in (2, 4)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=") if kept else np.float64))


def _described(answer: Any) -> str:
    kind = type(answer).__name__
    dtype = getattr(answer, "dtype", None)
    return kind if dtype is None else f"{kind} of {dtype}"
