"""Methods as people name them."""

from __future__ import annotations

import dataclasses

import pytest

from salience.errors import MethodError
from salience.methods.registry import methods, parse_method


def test_every_method_describes_itself() -> None:
    for name, cls in methods().items():
        traits = cls.traits
        assert traits.name == name
        assert traits.summary
        assert not traits.summary.endswith(".")
        assert traits.reference
        assert traits.details
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen, name
        for field in dataclasses.fields(cls):
            assert field.name in (cls.__doc__ or "") or "As for" in (cls.__doc__ or ""), (name, field.name)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("gradient", {"channels": "max"}),
        ("gradient:channels=sum", {"channels": "sum"}),
        ("ig:steps=64:baseline=black+white", {"steps": 64, "baseline": "black+white"}),
        ("ig:steps=1e2", {"steps": 100, "baseline": "black"}),
        ("smoothgrad:noise=.1:squared=yes", {"samples": 25, "noise": 0.1, "channels": "max", "squared": True}),
        ("gradcam:layer=layer4.1:relu=0", {"layer": "layer4.1", "relu": False}),
        ("  gradcam  ", {"layer": None, "relu": True}),
    ],
)
def test_settings(text: str, settings: dict[str, object]) -> None:
    chosen = parse_method(text)
    assert chosen.method.settings() == settings
    assert chosen.label == text.strip()


def test_settings_of_python() -> None:
    chosen = parse_method("ig", {"steps": 8})
    assert chosen.method.settings()["steps"] == 8
    assert parse_method("gradcam", {"layer": None}).method.settings()["layer"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradcm", "no method 'gradcm'.*Did you mean 'gradcam'"),
        ("", "no method ''"),
        ("gradient:channel=sum", "no setting 'channel'.*Did you mean 'channels'.*channels=max"),
        ("gradient:channels=mean", "choose one of max, sum, signed"),
        ("gradient:sum", "is written 'gradient'"),
        ("ig:steps=many", "a value of type int is needed"),
        ("ig:steps=2.5", "a value of type int is needed"),
        ("ig:steps=0", "1 or more"),
        ("ig:baseline=black+white:steps=3", "multiple"),
        ("smoothgrad:noise=-1", "at least 0"),
        ("gradcam:relu=maybe", "a value of type bool is needed"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        parse_method(text)


def test_an_unknown_baseline_is_told_at_once() -> None:
    with pytest.raises(MethodError, match="Baseline 'pink' is unknown"):
        parse_method("ig:baseline=pink")


def test_sign_follows_the_settings() -> None:
    signs = {
        "gradient": False,
        "gradient:channels=signed": True,
        "gradcam": False,
        "gradcam:relu=false": True,
        "hirescam": True,
        "hirescam:relu=true": False,
        "smoothgrad:channels=signed": True,
        "smoothgrad:channels=signed:squared=true": False,
        "ig": True,
        "contrast": True,
    }
    assert {text: parse_method(text).method.signed for text in signs} == signs
