"""Every contract, for every registered method, on every kind of small classifier."""

from __future__ import annotations

import pytest

from salience.methods.registry import methods
from salience.models.classifier import Classifier
from salience.testing.contracts import METHOD_CONTRACTS
from salience.testing.models import small_classifier, small_vit

#: methods that need words behind their name, and the forms in which they are tried
FORMS = {
    "captum": ["captum:Saliency", "captum:DeepLift", "captum:LayerGradCam", "captum:GradientShap:n_samples=2"],
    "smoothgrad": ["smoothgrad:samples=4"],
    "ig": ["ig:steps=4", "ig:steps=4:baseline=black+blur"],
}
ALL = [form for name in methods() for form in FORMS.get(name, [name])]
CLASSIFIERS = {
    "cnn": lambda: small_classifier(),
    "inplace": lambda: small_classifier(inplace=True, classes=24),
    "vit": lambda: small_vit(),
}


@pytest.fixture(params=list(CLASSIFIERS))
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return CLASSIFIERS[request.param]()


@pytest.mark.parametrize("check", METHOD_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("method", ALL)
def test_contract(method: str, check, classifier: Classifier) -> None:
    if method.startswith("captum:"):
        pytest.importorskip("captum")
    check(method, classifier)


def test_every_method_is_tried() -> None:
    assert {form.split(":")[0] for form in ALL} == set(methods())
