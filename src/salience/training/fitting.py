"""One training run: epochs of gradient descent that can be killed anywhere and go on with the same numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from salience.engine.passes import is_out_of_memory
from salience.errors import ModelError, SettingsError
from salience.models.classifier import Classifier, unpack_logits
from salience.models.heads import initialise_linear
from salience.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from salience.training.human import other_rows
from salience.training.inputs import Inputs, Rows, move
from salience.training.loss import AttachedLoss, GuidedLoss, LossParts
from salience.training.networks import initialise
from salience.training.parts import Cut, Part
from salience.training.recipe import Recipe, generator, own_random

CHECKPOINT_S = 1.0
"""Epochs that are shorter than this share a checkpoint."""
_VALIDATE = 64


@dataclass(frozen=True, eq=False)
class Problem:
    """All that the runs of a group share.

    Attributes
    ----------
    classifier
        The network with its new head.
    head
        Dotted name of the head.
    part
        What is trained.
    cut
        Where the network is cut, None where it runs whole.
    recipe, loss
        How it is trained.
    inputs
        What the network, or its tail, is given.
    labels
        Class of each image, int64 (n,).
    human
        Human map of each training image, uint8 (len(training), H, W); None where they have no part.
    training, validation
        Rows to train with, and rows held out.
    scratch
        Whether all weights are drawn afresh by each run, and not the head's alone.
    key
        Names all this.
    """

    classifier: Classifier
    head: str
    part: Part
    cut: Cut | None
    recipe: Recipe
    loss: GuidedLoss
    inputs: Inputs
    labels: npt.NDArray[np.int64]
    human: npt.NDArray[np.uint8] | None
    training: Rows
    validation: Rows
    scratch: bool
    key: str
    first: dict[str, Tensor] = field(init=False)
    """Weights and buffers of the part before any training."""

    def __post_init__(self) -> None:
        first = {key: tensor.detach().clone() for key, tensor in self.part.state(self.classifier.module).items()}
        object.__setattr__(self, "first", first)

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.classifier.module


@dataclass(frozen=True)
class EpochRow:
    """One line of a training log; shares and losses of the training images are those met during the epoch."""

    epoch: int
    lr: float
    loss: float
    cross_entropy: float
    map_error: float
    training_accuracy: float
    accuracy: float
    recall: float
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A finished run: its log, the number of the best epoch (from 1), and the weights of the part after it."""

    history: tuple[EpochRow, ...]
    best: int
    state: dict[str, Tensor]


def fit(problem: Problem, run: int, path: Path, told: Callable[[int], None] = lambda images: None) -> Fitted:
    """Train one run, from its last checkpoint at ``path`` where there is one.

    The best epoch is the last of those with the highest accuracy on the images held out (mean recall, where the
    recipe is balanced). The network is left with its weights.

    Parameters
    ----------
    problem
        What is trained and how.
    run
        Number of the run, from 1.
    path
        File of the checkpoint; it stays when the run is done.
    told
        Hears how many images each step, or a checkpoint, came to.

    Raises
    ------
    ModelError
        When the loss is no number any more.
    SettingsError
        When memory runs out.
    """
    try:
        return _fit(problem, run, path, told)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SettingsError(
            f"Memory ran out with batches of {problem.recipe.batch_size} images of which the part from "
            f"{problem.part.start or 'the first layer'!r} on is trained. Give a smaller --batch-size, or train less."
        ) from error


def _fit(problem: Problem, run: int, path: Path, told: Callable[[int], None]) -> Fitted:
    recipe = problem.recipe
    key = f"{problem.key} {run}"
    kept = read_checkpoint(path, key)
    if kept is None:
        _begin(problem, run)
    else:
        _load(problem, kept.now)
    history = [] if kept is None else [EpochRow(**row) for row in kept.history]
    best = {} if kept is None else kept.best
    parameters = {k: p for k, p in problem.module.named_parameters() if k in problem.first}
    problem.part.set_up(problem.module, training=True)
    descent = torch.optim.SGD(
        list(parameters.values()), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    for name, buffer in ({} if kept is None else kept.momentum).items():
        descent.state[parameters[name]]["momentum_buffer"] = buffer.to(problem.classifier.device)
    told(len(history) * len(problem.training))
    other = other_rows(len(problem.training), recipe.seed, run) if recipe.control == "shuffled" else None
    saved = time.monotonic()
    while not _finished(recipe, history):
        row = _epoch(problem, run, len(history), descent, other, told)
        history.append(row)
        if _best(recipe, history) == len(history):
            best = {k: t.detach().clone() for k, t in problem.part.state(problem.module).items()}
        if time.monotonic() - saved >= CHECKPOINT_S or _finished(recipe, history):
            buffers = {k: descent.state[p].get("momentum_buffer") for k, p in parameters.items()}
            momentum = {k: buffer for k, buffer in buffers.items() if buffer is not None}
            now = problem.part.state(problem.module)
            write_checkpoint(path, key, Checkpoint([asdict(r) for r in history], now, best, momentum))
            saved = time.monotonic()
    _load(problem, best)
    problem.part.set_up(problem.module, training=False)
    return Fitted(tuple(history), _best(recipe, history), best)


def _begin(problem: Problem, run: int) -> None:
    """Give the part its first weights: those it came with, and a head, or everything, drawn by the run."""
    _load(problem, problem.first)
    drawn = generator(problem.recipe.seed, run, "weights")
    if problem.scratch:
        initialise(problem.module, drawn)
    else:
        head = problem.module.get_submodule(problem.head)
        initialise_linear(head, drawn)  # type: ignore[arg-type]  # a head is a linear layer


def _load(problem: Problem, state: dict[str, Tensor]) -> None:
    own = problem.part.state(problem.module)
    with torch.no_grad():
        for key, tensor in state.items():
            own[key].copy_(tensor)


def _score(recipe: Recipe, row: EpochRow) -> float:
    return row.recall if recipe.balanced else row.accuracy


def _best(recipe: Recipe, history: Sequence[EpochRow]) -> int:
    """Return the number of the best epoch, from 1: the last of equals, as they were trained for longer."""
    scores = [_score(recipe, row) for row in history]
    return len(scores) - scores[::-1].index(max(scores))


def _finished(recipe: Recipe, history: Sequence[EpochRow]) -> bool:
    if len(history) >= recipe.epochs:
        return True
    if recipe.patience is None or not history:
        return False
    scores = [_score(recipe, row) for row in history]
    return len(scores) - 1 - scores.index(max(scores)) >= recipe.patience


# ---------------------------------------------------------------------- one epoch


def _epoch(
    problem: Problem,
    run: int,
    number: int,
    descent: torch.optim.Optimizer,
    other: Rows | None,
    told: Callable[[int], None],
) -> EpochRow:
    recipe, began = problem.recipe, time.monotonic()
    rate = recipe.rate(number)
    for group in descent.param_groups:
        group["lr"] = rate
    problem.part.set_up(problem.module, training=True)
    count = len(problem.training)
    drawn = generator(recipe.seed, run, "order", number)
    order = torch.randperm(count, generator=drawn).numpy()
    draws = torch.rand(count, 3, generator=drawn)
    sums = torch.zeros(4, dtype=torch.float64, device=problem.classifier.device)
    with own_random(recipe.seed, run, number), _same_kernels(), _watched(problem) as attached:
        for rows in batches(order, recipe.batch_size):
            logits, parts, labels = _step(problem, attached, rows, draws[rows], other)
            descent.zero_grad(set_to_none=True)
            parts.total.backward()  # type: ignore[no-untyped-call]
            descent.step()
            right = (logits.detach().argmax(1) == labels).sum()
            losses = torch.stack([part.detach().double() for part in parts]) * len(rows)
            sums += torch.cat([losses, right.double().unsqueeze(0)])
            told(len(rows))
    loss, cross_entropy, map_error, right_share = (sums / count).tolist()
    if not math.isfinite(loss):
        raise ModelError(
            f"The loss is no number any more in epoch {number + 1} of run {run} (learning rate {rate:g}). "
            f"Give a smaller --lr than {recipe.lr:g}."
        )
    accuracy, recall = validate(problem)
    seconds = time.monotonic() - began
    return EpochRow(number + 1, rate, loss, cross_entropy, map_error, right_share, accuracy, recall, round(seconds, 3))


def _step(
    problem: Problem, attached: AttachedLoss | None, rows: Rows, draws: Tensor, other: Rows | None
) -> tuple[Tensor, LossParts, Tensor]:
    """Return logits, loss and labels of the training images ``rows`` (counted among those to train with)."""
    device = problem.classifier.device
    images = problem.inputs.batch(problem.training[rows])
    labels = torch.from_numpy(problem.labels[problem.training[rows]]).to(device)
    human = None
    if problem.human is not None:
        maps = problem.human[rows if other is None else other[rows]]
        human = torch.from_numpy(np.ascontiguousarray(maps)).to(device, images.dtype).div_(255)
    if problem.cut is None:
        images, human = move(images, human, draws, problem.recipe.augment)
    logits = forward(problem, images)
    if attached is not None:
        return logits, attached.parts(logits, labels, human), labels
    weight = problem.module.get_submodule(problem.head).weight
    return logits, problem.loss.of(logits, labels, human, images, weight), labels  # type: ignore[arg-type]


def forward(problem: Problem, inputs: Tensor) -> Tensor:
    """Return the logits (N, C) of a batch of inputs: of pixels, or of what arrives at the cut.

    Channels come last in memory, as convolutions and their gradients are then up to 1.6 times as fast on a CPU.
    """
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if problem.cut is None:
        return problem.classifier.logits(inputs)
    return unpack_logits(problem.cut.tail(inputs), len(inputs))


@contextmanager
def _watched(problem: Problem) -> Iterator[AttachedLoss | None]:
    """Let the loss see the features of each pass; None where what is given are the features themselves."""
    given = problem.cut is not None and problem.cut.behind
    with nullcontext() if given else problem.loss.attach(problem.module) as attached:
        yield attached


@contextmanager
def _same_kernels() -> Iterator[None]:
    """Let convolutions on a GPU sum in one order, so that a run can be repeated to the byte."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def batches(order: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Cut ``order`` into batches; a single image that is left over goes with the last one.

    Alone, it would be normalised by its own statistics.
    """
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def validate(problem: Problem) -> tuple[float, float]:
    """Return accuracy and mean recall of the classes on the images held out, at inference."""
    problem.part.set_up(problem.module, training=False)
    parts = np.split(problem.validation, range(_VALIDATE, len(problem.validation), _VALIDATE))
    with torch.no_grad():
        predicted = [forward(problem, problem.inputs.batch(rows)).argmax(1).cpu().numpy() for rows in parts]
    labels = problem.labels[problem.validation]
    right = np.concatenate(predicted) == labels
    recalls = [right[labels == c].mean() for c in np.unique(labels)]
    return float(right.mean()), float(np.mean(recalls))


def row_values(row: EpochRow) -> dict[str, Any]:
    """Return a line of the log, rounded to what means something."""
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(row).items()}
