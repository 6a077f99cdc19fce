"""The recipe of a group of training runs: all that its runs share, and how each draws its own numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from salience.engine.random import row_key
from salience.errors import SettingsError, nearest
from salience.training.loss import CamTarget

LossName = Literal["cross-entropy", "guided"]
Control = Literal["shuffled", "centre"]
Schedule = Literal["step", "cosine"]
Augmentation = Literal["flip", "shift"]


@dataclass(frozen=True)
class Recipe:
    """How a group of runs is trained. The defaults are the published recipe of Boyd et al. (2021).

    Parameters
    ----------
    loss
        ``cross-entropy`` or ``guided``.
    alpha, target
        Of the guided loss: see :class:`~salience.training.loss.GuidedLoss`.
    control
        What stands in for an image's own human map: ``shuffled``, the map of another training image, drawn by each
        run; ``centre``, one bell in the middle of every image. None for its own.
    train
        What is trained: ``head``, the linear layer alone; ``last``, from the last block on; ``all``; or the dotted
        name of a module, from which on everything is. What is not trained stays as it is at inference, batch
        statistics and dropout included.
    epochs, batch_size, lr, momentum, weight_decay
        Of stochastic gradient descent.
    schedule, step, gamma
        ``step`` multiplies the rate by ``gamma`` every ``step`` epochs; ``cosine`` lets it fall to zero over all
        epochs.
    augment
        Any of ``flip`` (left and right, one time in two) and ``shift`` (up to an eighth of the side each way, edges
        repeated). Human maps move with their images.
    balanced
        Weigh the classes in the cross-entropy so that each has the same part, and choose the best epoch by the mean
        recall in place of the accuracy.
    patience
        End a run after so many epochs without a better one; None trains them all, as published.
    validation
        Share of each class's images that are held out; the same ones in all runs.
    seed
        Run k of two groups with one seed starts from the same weights and sees the images in the same order.

    Raises
    ------
    SettingsError
        When a value makes no sense.
    """

    loss: LossName = "cross-entropy"
    alpha: float = 0.5
    target: CamTarget = "predicted"
    control: Control | None = None
    train: str = "head"
    epochs: int = 50
    batch_size: int = 20
    lr: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 1e-6
    schedule: Schedule = "step"
    step: int = 12
    gamma: float = 0.1
    augment: tuple[Augmentation, ...] = ()
    balanced: bool = False
    patience: int | None = None
    validation: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("loss", self.loss, get_args(LossName))
        _one_of("target", self.target, get_args(CamTarget))
        _one_of("schedule", self.schedule, get_args(Schedule))
        for augmentation in self.augment:
            _one_of("augment", augmentation, get_args(Augmentation))
        if self.control is not None:
            _one_of("control", self.control, get_args(Control))
            if self.loss != "guided":
                raise SettingsError("A control stands in for human maps, which the loss 'cross-entropy' does not use.")
        for name, least in (("epochs", 1), ("batch_size", 1), ("step", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{_option(name)} is {value}: {least} or more is needed.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise SettingsError(f"lr is {self.lr}: a learning rate above zero is needed, e.g. 0.005.")
        for name, value, high in (("momentum", self.momentum, 1.0), ("weight_decay", self.weight_decay, math.inf)):
            if not 0 <= value < high:
                raise SettingsError(
                    f"{_option(name)} is {value}: 0 or more is needed" + f", below {high}." * (high == 1)
                )
        if not 0 < self.gamma <= 1:
            raise SettingsError(f"gamma is {self.gamma}: a factor above 0 and at most 1 is needed.")
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"alpha is {self.alpha}: a share in [0, 1] is needed, the published one is 0.5.")
        if not 0 < self.validation < 1:
            raise SettingsError(f"validation is {self.validation}: a share between 0 and 1 is needed, e.g. 0.2.")
        if not self.train:
            raise SettingsError("train is empty: say 'head', 'last', 'all' or the name of a module.")

    @property
    def guided(self) -> bool:
        """Whether human maps have a part in the loss."""
        return self.loss == "guided" and self.alpha < 1

    @property
    def default_name(self) -> str:
        """What a group of this recipe is called where nothing else is said."""
        if self.loss == "cross-entropy":
            return "plain"
        return "guided" if self.control is None else f"guided-{self.control}"

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr * self.gamma ** (epoch // self.step)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _option(name: str) -> str:
    return name.replace("_", "-")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        listed = " or ".join(map(repr, known))
        raise SettingsError(f"{_option(name)} is {value!r}; choose {listed}.{nearest(value, known)}")


def generator(seed: int, run: int, purpose: str, draw: int = 0) -> torch.Generator:
    """Return a run's own generator for one purpose: the same at every call, so that nothing depends on history."""
    return torch.Generator().manual_seed(row_key(seed, f"train {purpose}", f"run {run}", draw) >> 1)


@contextmanager
def own_random(seed: int, run: int, epoch: int) -> Iterator[None]:
    """Let modules that draw from the global generators (dropout) draw the run's own numbers; then put them back."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(row_key(seed, "train modules", f"run {run}", epoch) >> 1)
        yield
