"""Asking a store again while it cannot answer, and saying what is wrong when it never does."""

from __future__ import annotations

import random
import re
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from salience.errors import RunError, SalienceWarning

T = TypeVar("T")

PATIENCE_S = 180.0
"""So long a store that does not answer, or answers that it cannot now, is asked again."""
_QUIET_S = 10.0
"""So long nothing is said about it."""
_FINAL = re.compile(r"status code: (4(?!08|29)\d\d|501)|redirect without LOCATION")
"""Answers that asking again does not change."""
_NOBODY = re.compile(r"169\.254\.169\.254|metadata\.google|must be specified")
"""What is said where no credentials are: those of the machine's role were the last that was looked for."""


class Patience:
    """What one store is granted."""

    def __init__(self) -> None:
        self._random = random.Random()  # of pauses only
        self._down = False  # a call has waited in vain: those that follow it need not
        self._known = False  # it has answered once, so there are credentials

    def ask(self, url: str, call: Callable[[], T]) -> T:
        """Make a call, again and again while the store cannot answer; what is no fault of the store is raised."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            NotSupportedError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        begin, pause, quiet = time.monotonic(), 0.2, True
        while True:
            try:
                answer = call()
                self._down, self._known = False, True
                return answer
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise _no_bucket(url) from error
                raise FileNotFoundError(f"there is no object {url}") from error
            except (FileExistsError, AlreadyExistsError, PreconditionError, NotSupportedError):
                raise
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise _refused(url, why(error)) from error
            except (BaseError, OSError) as error:
                if "NoSuchBucket" in str(error):
                    raise _no_bucket(url) from error
                if not self._known and _NOBODY.search(str(error)):
                    raise _refused(url, "no credentials were found") from error
                waited = time.monotonic() - begin
                left = (0.0 if self._down else PATIENCE_S) - waited
                if left <= 0 or _FINAL.search(str(error)):
                    self._down = left <= 0
                    tried = f" It was tried for {waited:.0f} s." if waited >= 1 else ""
                    raise RunError(
                        f"{url} cannot be reached: {why(error)}.{tried} Everything finished before is kept: "
                        "run the same command again when the store answers."
                    ) from error
                if quiet and waited > _QUIET_S:
                    quiet = False
                    warnings.warn(
                        f"{url} does not answer ({why(error)}); it is asked again for {left:.0f} s.",
                        SalienceWarning,
                        stacklevel=2,
                    )
                time.sleep(min(left, pause * self._random.uniform(0.5, 1.0)))
                pause = min(2 * pause, 10.0)


def _refused(url: str, what: str) -> RunError:
    return RunError(
        f"{url} may not be used: {what}. Check the credentials in the environment (AWS_ACCESS_KEY_ID, ...; "
        "docs/runs.md names them) and what they allow."
    )


def _no_bucket(url: str) -> RunError:
    scheme, bucket = url.split("/")[0], url.split("/")[2]
    return RunError(f"{url}: there is no bucket {scheme}//{bucket}. Make it first.")


def why(error: BaseException) -> str:
    """Return the part of a store's error that tells people something."""
    text = str(error).strip().split("\n\nDebug source")[0]
    code = re.search(r"<Code>(.*?)</Code>(?:\s*<Message>(.*?)</Message>)?", text, re.DOTALL)
    first = text.split("\n")[0].split(": <?xml")[0].rstrip(": ")
    return f"{first} ({': '.join(part for part in code.groups() if part)})" if code else first
