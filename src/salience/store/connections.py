"""Which stores there are, and how they are reached: by the URL and what the environment says."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from salience.errors import RunError
from salience.store.bucket import Bucket
from salience.store.patience import why

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory")
REQUEST_S = 80.0
"""What one request may take, the transfer of its bytes included."""

_buckets: dict[tuple[str, tuple[str, ...]], Bucket] = {}
_opening = Lock()
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")
"""Beginnings of the variables that say where stores are and who asks."""


def bucket_of(root: str) -> Bucket:
    """Return the bucket of a URL without a path, ``s3://name``.

    Raises
    ------
    RunError
        When the package that speaks to object stores is not installed, or the URL cannot be one.
    """
    said = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(_SETTINGS))
    name = (root, () if root.startswith("memory:") else tuple(said))
    with _opening:
        if name not in _buckets:
            _buckets[name] = Bucket(root, _connect(root))
        return _buckets[name]


def _connect(root: str) -> ObjectStore:
    scheme = root.partition("://")[0]
    try:
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url
    except ImportError as error:
        raise RunError(
            f"{root} is on an object store, and the package that speaks to it is not installed: "
            "pip install 'salience[object-stores]'."
        ) from error
    if scheme == "memory":
        return MemoryStore()
    client: dict[str, Any] = {"timeout": timedelta(seconds=REQUEST_S), "connect_timeout": timedelta(seconds=10)}
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if any(os.environ.get(name, "").startswith("http://") for name in endpoints):
        client["allow_http"] = True  # the user's own words
    options: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": 1}}
    if scheme in ("s3", "s3a") and _profile():
        options["credential_provider"] = _of_profile()
    try:
        return from_url(root, **{k: v for k, v in options.items() if v is not None})
    except (BaseError, ValueError) as error:
        raise RunError(
            f"{root} cannot be opened: {why(error)}. Check the URL (SCHEME://BUCKET/FOLDER) and what "
            "the environment says of the store; docs/runs.md names the variables."
        ) from error


def _profile() -> bool:
    """Tell whether credentials are in the files of a profile and not in the environment."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return False
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    return bool(os.environ.get("AWS_PROFILE")) or file.is_file()


def _of_profile() -> Any:
    """Return what reads profiles, where boto3 is installed; the store's own ways are used where none is asked for."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except ImportError as error:
        if not os.environ.get("AWS_PROFILE"):
            return None
        raise RunError(
            "AWS_PROFILE names a profile, and boto3, which reads those, is not installed: pip install boto3, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
