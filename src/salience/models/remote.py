"""Models behind a URL: how batches are written, how answers are read, and what to do when none comes."""

from __future__ import annotations

import email.utils
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import numpy as np
import numpy.typing as npt
from torch import Tensor

from salience.errors import ModelError
from salience.models.account import Account

Array = npt.NDArray[Any]
Wire = Literal["npy", "json"]

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0
_NPY = "application/x-npy"
_SHOWN = 200


@dataclass(frozen=True)
class Endpoint:
    """Where a model is and how it is asked; nothing secret.

    Attributes
    ----------
    url
        The URL; user name and password in it are sent and never shown.
    wire
        ``npy``: the body is a .npy file, the answer another one or ``{"scores": [[...]]}``. ``json``: the body is
        ``{"instances": [...]}``, the answer ``{"predictions": [[...]]}``, as TensorFlow Serving and KServe have it.
    token_env
        Name of the environment variable with the token that goes into ``Authorization: Bearer``.
    timeout
        Seconds to wait for a connection, and for an answer.
    retries
        Attempts after the first: on connection errors, time-outs, status 429 and 5xx.
    connections
        Requests that may be under way at a time.

    Raises
    ------
    ModelError
        When the URL cannot be used.
    """

    url: str
    wire: Wire = "npy"
    token_env: str | None = None
    timeout: float = 60.0
    retries: int = 6
    connections: int = 1

    def __post_init__(self) -> None:
        try:
            host = httpx.URL(self.url).host
        except httpx.InvalidURL as error:
            raise ModelError(f"{self.url!r} is no URL: {error}. Write for example https://host/predict.") from error
        if not host:
            raise ModelError(f"{self.url!r} names no host. Write for example https://host/predict.")

    def headers(self) -> dict[str, str]:
        """Return what goes with every request.

        Raises
        ------
        ModelError
            When the token's variable is not set.
        """
        kinds = {"npy": _NPY, "json": "application/json"}
        headers = {"Content-Type": kinds[self.wire], "Accept": f"{_NPY}, application/json"}
        if self.token_env is not None:
            token = os.environ.get(self.token_env, "").strip()
            if not token:
                raise ModelError(
                    f"{shown(self.url)} needs a token in the environment variable {self.token_env} (token_env in the "
                    f"card), which is not set: export {self.token_env}=..."
                )
            headers["Authorization"] = f"Bearer {token}"
        return headers


def shown(url: str) -> str:
    """Return a URL without user name and password."""
    return str(httpx.URL(url).copy_with(userinfo=b""))


def waits(retries: int) -> list[float]:
    """Return the seconds before each repeated attempt: 0.5, 1, 2, ... up to 60, always the same."""
    return [min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**k) for k in range(retries)]


class Remote:
    """Asks an endpoint for the scores of a batch, again and again where that can help; several threads may ask it.

    Parameters
    ----------
    endpoint
        Where and how.
    account
        Every attempt is charged to it before it goes out, and refunded where no connection came about.
    sleep
        How to wait; another under test.

    Raises
    ------
    ModelError
        When the token is missing; when asked: when no attempt was answered, or the answer cannot be read.
    """

    def __init__(self, endpoint: Endpoint, account: Account, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self.account = account
        self._sleep = sleep
        self._shown = shown(endpoint.url)
        together = httpx.Limits(max_connections=endpoint.connections, max_keepalive_connections=endpoint.connections)
        self._client = httpx.Client(headers=endpoint.headers(), timeout=endpoint.timeout, limits=together)

    def __call__(self, images: Tensor) -> Array:
        """Return scores (N, C), float64 or as the answer has them, of normalised images (N, 3, H, W)."""
        rows: Array = images.cpu().numpy()
        answer = self._post(write_batch(rows, self.endpoint.wire), len(rows))
        try:
            return read_scores(answer.content, self.endpoint.wire)
        except ValueError as error:
            raise ModelError(
                f"{self._shown} sent an answer that cannot be read: {error} It begins with "
                f"{_beginning(answer.content)!r}. docs/models.md says what is expected for wire = "
                f"{self.endpoint.wire!r}."
            ) from error

    def _post(self, body: bytes, rows: int) -> httpx.Response:
        """Send one batch until it is answered."""
        asked = waited = 0.0
        attempts, failure = 0, ""
        for planned in (0.0, *waits(self.endpoint.retries)):
            if pause := max(planned, asked):
                self._sleep(pause)
                waited += pause
            asked, attempts = 0.0, attempts + 1
            response, failure = self._attempt(body, rows)
            if response is None:
                continue
            if response.is_success:
                return response
            failure = f"status {response.status_code} ({_beginning(response.content)!r})"
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS and response.status_code < 500:
                raise ModelError(
                    f"{self._shown} refused a batch of {rows} images with {failure}. That does not change by asking "
                    "again: check the URL, the card (size, wire, token_env) and the server's own log."
                )
            asked = retry_after(response.headers.get("Retry-After"), time.time())
            if asked > LONGEST_RETRY_AFTER_S:
                failure += f", to be tried again in {asked:.0f} s"
                break
        raise ModelError(
            f"{self._shown} gave no answer in {attempts} attempts and {waited:g} s of waiting between them; the last: "
            f"{failure}. What was answered is kept: run the same command again to carry on."
        )

    def _attempt(self, body: bytes, rows: int) -> tuple[httpx.Response | None, str]:
        """Send once; return the answer, or what kept it from coming."""
        self.account.charge(rows)
        try:
            return self._client.post(self.endpoint.url, content=body), ""
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.account.refund(rows)
            return None, f"no connection ({error or type(error).__name__})"
        except httpx.TimeoutException:
            return None, f"no answer within {self.endpoint.timeout:g} s"
        except httpx.TransportError as error:
            return None, f"the connection broke ({type(error).__name__}: {error})"


def retry_after(text: str | None, now: float) -> float:
    """Return the seconds that a Retry-After header asks for, given in seconds or as a date; 0 where it says nothing."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return 0.0


def write_batch(rows: Array, wire: Wire) -> bytes:
    """Write normalised images (N, 3, H, W) as the body of a request."""
    if wire == "json":
        return json.dumps({"instances": rows.tolist()}).encode()
    body = io.BytesIO()
    np.save(body, np.ascontiguousarray(rows, dtype="<f4"), allow_pickle=False)
    return body.getvalue()


def read_scores(content: bytes, wire: Wire) -> Array:
    """Read scores from the body of an answer; what they are worth is checked elsewhere.

    Raises
    ------
    ValueError
        When there are none.
    """
    if wire == "npy" and content.startswith(b"\x93NUMPY"):
        loaded: Array = np.load(io.BytesIO(content), allow_pickle=False)
        return loaded
    key = "scores" if wire == "npy" else "predictions"
    try:
        found = json.loads(content)
    except ValueError as error:
        kinds = "neither a .npy file nor JSON" if wire == "npy" else "no JSON"
        raise ValueError(f"It is {kinds} ({error}).") from error
    if not isinstance(found, dict) or key not in found:
        raise ValueError(f"It is JSON without the key {key!r}.")
    try:
        return np.array(found[key], dtype=np.float64)  # null becomes NaN
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key!r} does not hold lists of numbers of one length.") from error


def _beginning(content: bytes) -> str:
    text = " ".join(content[: 2 * _SHOWN].decode("utf-8", errors="replace").split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
