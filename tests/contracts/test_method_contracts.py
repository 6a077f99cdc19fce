"""Every contract, for every registered method, on every kind of small classifier."""

from __future__ import annotations

import pytest

from salience.engine.queries import QueryMethod
from salience.methods.registry import methods
from salience.testing.contracts import METHOD_CONTRACTS
from salience.testing.models import small_classifier, small_vit

#: methods that need words behind their name, and the forms in which they are tried
FORMS = {
    "captum": ["captum:Saliency", "captum:DeepLift", "captum:LayerGradCam", "captum:GradientShap:n_samples=2"],
    "smoothgrad": ["smoothgrad:samples=4"],
    "rise": ["rise:budget=40", "rise:budget=30:cells=3:keep=0.3:centred=false"],
    "occlusion": [
        "occlusion:budget=26",
        "occlusion:window=6:stride=4:budget=30",
        "occlusion:refine=true:budget=40:fill=noise",
    ],
    "ridge": ["ridge:budget=40", "ridge:segments=slic:cells=3:budget=24"],
    "kernel_shap": ["kernel_shap:budget=40:cells=3", "kernel_shap:segments=slic:cells=3:budget=24"],
    "hsic": ["hsic:budget=40:cells=4"],
    "sobol": ["sobol:budget=60"],
    "brightness": ["brightness:budget=33", "brightness:compete=true:budget=33"],
    "decam": [
        "decam:budget=41",
        "decam:budget=41:encoding=points:strategy=jde:map=elite",
        "decam:budget=41:encoding=blobs:strategy=shade:map=ridge:parts=2",
        "decam:budget=41:strategy=best1:cells=4:fill=dataset",
    ],
    "evolve": ["evolve:budget=60", "evolve:budget=100:mode=snes:candidates=4"],
    "mask": ["mask:steps=4:draws=2", "mask:steps=3:draws=3:scale=1:objective=nll", "mask:steps=2:draws=5"],
    "mask_published": ["mask_published:steps=3:draws=4"],
    "ig": ["ig:steps=4", "ig:steps=4:baseline=black+blur"],
}
ALL = [form for name in methods() for form in FORMS.get(name, [name])]
CLASSIFIERS = {
    "cnn": lambda: small_classifier(),
    "inplace": lambda: small_classifier(inplace=True, classes=24),
    "vit": lambda: small_vit(),
}


def kinds(form: str) -> list[str]:
    """Return the classifiers for a form: methods that see outputs alone are alike on all, and are asked often."""
    name = form.split(":")[0]
    if not issubclass(methods()[name], QueryMethod):
        return list(CLASSIFIERS)
    return ["inplace", "vit"] if form == FORMS.get(name, [name])[0] else ["inplace"]


CASES = [pytest.param(form, kind, id=f"{kind}-{form}") for form in ALL for kind in kinds(form)]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("check", METHOD_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize(("method", "kind"), CASES)
def test_contract(method: str, kind: str, check) -> None:
    if method.startswith("captum:"):
        pytest.importorskip("captum")
    check(method, CLASSIFIERS[kind]())


def test_every_method_is_tried() -> None:
    assert {form.split(":")[0] for form in ALL} == set(methods())
