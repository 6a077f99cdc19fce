"""Models behind a URL: ``http://...`` and ``https://...``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from salience.models.registry import Load, Request, adapter, make_name

if TYPE_CHECKING:
    from salience.models.classifier import Classifier


def load(request: Request) -> Classifier:
    """Make a classifier of a URL; size, normalisation and how it is asked come from the card."""
    import hashlib

    import httpx

    from salience.models.account import Account
    from salience.models.blackbox import BlackBox
    from salience.models.card import HTTP_KEYS, describe
    from salience.models.rate import Rate, parse_rate
    from salience.models.remote import Endpoint, Remote, shown

    card, base, where = describe(request, HTTP_KEYS)
    rate = None if card.rate is None else Rate(parse_rate(card.rate))
    endpoint = Endpoint(request.target, card.wire, card.token_env, card.timeout, card.retries, card.connections)
    account = Account(shown(endpoint.url), limit=card.max_queries, rate=rate)
    # limits, time-outs and tokens may change without an answer changing
    identity = hashlib.sha256(repr((account.name, card.wire, card.version)).encode()).digest()
    box = BlackBox(
        Remote(endpoint, account),
        lambda: identity,
        name=account.name,
        scores=card.scores,
        usual_batch=card.batch * card.connections,
        account=account,
        paid=card.paid,
        connections=card.connections,
    )
    classifier = card.build(box, base, where, frozenset())
    box.classes = None if classifier.classes is None else len(classifier.classes)
    url = httpx.URL(endpoint.url)
    classifier.name = card.name or make_name(f"{url.netloc.decode()}{url.path}")
    return classifier


def _register(scheme: str) -> Load:
    return adapter(
        scheme,
        summary="a model behind a URL: outputs alone; size, normalisation and wire format from a card",
        example=f"{scheme}://127.0.0.1:8000/predict" if scheme == "http" else "https://example.org/predict",
        requires="httpx",
        extra="http",
        takes_card=True,
        whole=True,
    )(load)


for _scheme in ("http", "https"):
    _register(_scheme)
