"""One-line errors for failed requests to buckets, and retries of temporary failures.

The clients raise a dozen types for the same few causes. Here each becomes an `OSError` that names the path, the cause and
what to do.
"""

import contextlib
import errno
import logging as stdlib_logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from absl import logging

RETRY_SECONDS = 120.0
"""How long a request is retried while the server is overloaded or cannot be reached."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 16.0  # seconds
TRANSIENT = {
    "408",
    "429",
    "500",
    "502",
    "503",
    "504",
    "InternalError",
    "RequestTimeout",
    "SlowDown",
    "ServiceUnavailable",
}
_TRANSIENT_TYPES = (  # by name, so that no client has to be imported
    "ClientConnectionError", "ClientConnectorError", "ClientOSError", "ClientPayloadError", "ConnectTimeoutError",
    "ConnectionClosedError", "ConnectionError", "ConnectionTimeoutError", "EndpointConnectionError", "HTTPClientError",
    "IncompleteRead", "ProxyError", "ReadTimeoutError", "ServerDisconnectedError", "ServerTimeoutError", "TransportError",
)  # fmt: skip
_NO_CREDENTIALS = ("DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "RefreshError")
Result = TypeVar("Result")


class BucketError(OSError):
    """A request to a bucket failed; the message names the path, the cause and what to do."""

    number = errno.EIO

    def __init__(self, message: str):
        super().__init__(self.number, message)

    def __str__(self) -> str:
        return self.strerror or ""

    def __reduce__(self):
        return type(self), (self.strerror,)


class NotFound(BucketError, FileNotFoundError):
    """The object, folder or bucket does not exist."""

    number = errno.ENOENT


class Forbidden(BucketError, PermissionError):
    """The account in use lacks the permission, or there is no account."""

    number = errno.EACCES


class Exists(BucketError, FileExistsError):
    """An object that should be created exists already."""

    number = errno.EEXIST


class Unavailable(BucketError, TimeoutError):
    """The server did not answer, or was overloaded, for `RETRY_SECONDS`."""

    number = errno.ETIMEDOUT


def call(path: str, action: str, function: Callable[[], Result]) -> Result:
    """Returns `function()`; retries while the server is overloaded or cannot be reached.

    Args:
      path: path of the object, for messages.
      action: verb for messages, such as "read".
      function: sends a request that can be repeated safely.

    Raises:
      BucketError: the request failed; one of the subclasses above if the cause is known.
    """
    began, wait, warned = time.monotonic(), FIRST_WAIT, False
    while True:
        try:
            return function()
        except ImportError:  # a missing extra; the message names it
            raise
        except Exception as error:
            reason = transient(error)
            if reason is None:
                raise translated(path, action, error) from error
            left = began + RETRY_SECONDS - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    f"could not {action} {path}: {reason}, for {RETRY_SECONDS:.0f} s. Start the same command again later"
                ) from error
            if not warned:
                logging.warning("%s: %s; trying again for up to %.0f s", path, reason, left)
                warned = True
            time.sleep(min(left, wait * (0.75 + random.random() / 2)))
            wait = min(2 * wait, LONGEST_WAIT)


def transient(error: BaseException) -> str | None:
    """Returns the cause of a temporary error in words; None for other errors."""
    for found in _chain(error):
        code = _code(found)
        if code in TRANSIENT:
            return f"the server answers {code}"
        names = {kind.__name__ for kind in type(found).__mro__}
        if names & set(_TRANSIENT_TYPES) or isinstance(found, TimeoutError):
            return f"the server cannot be reached ({type(found).__name__})"
    return None


def translated(path: str, action: str, error: BaseException) -> OSError:
    """Returns the `BucketError` for a client's error that is not temporary."""
    if isinstance(error, BucketError):
        return error
    scheme, _, rest = path.partition("://")
    bucket = f"{scheme}://{rest.split('/')[0]}"
    words = " ".join(str(error).split())[:200]
    code = next(filter(None, map(_code, _chain(error))), "")
    names = {kind.__name__ for found in _chain(error) for kind in type(found).__mro__}
    if code == "NoSuchBucket" or "bucket does not exist" in words.lower():
        return NotFound(f"could not {action} {path}: there is no bucket {bucket}. Create it, or correct its name")
    if names & set(_NO_CREDENTIALS) or code == "401":
        login = "gcloud auth application-default login" if scheme == "gs" else "aws configure"
        return Forbidden(f"could not {action} {path}: no account to do it with ({words}). Log in: {login}")
    if isinstance(error, FileExistsError) or code in ("412", "PreconditionFailed", "ConditionalRequestConflict"):
        return Exists(f"{path} exists already")
    if isinstance(error, PermissionError) or code in ("403", "AccessDenied", "Forbidden") or "Forbidden" in words[:20]:
        role = "roles/storage.objectAdmin" if scheme == "gs" else "s3:GetObject, s3:PutObject, s3:ListBucket"
        return Forbidden(f"no permission to {action} {path}: give the account in use {role} on {bucket} ({words})")
    if isinstance(error, FileNotFoundError) or code in ("404", "NoSuchKey"):
        return NotFound(f"there is no {path}")
    return BucketError(f"could not {action} {path}: {type(error).__name__}: {words}")


def quiet_clients() -> None:
    """Keeps the clients from logging tracebacks of failed requests; the errors themselves are raised."""
    for name in ("gcsfs", "s3fs", "fsspec", "aiobotocore", "botocore"):
        stdlib_logging.getLogger(name).setLevel(stdlib_logging.CRITICAL + 1)


@contextlib.contextmanager
def translating(path: str, action: str) -> Iterator[None]:
    """Converts errors inside this context to `BucketError`, without retries."""
    try:
        yield
    except Exception as error:
        raise translated(path, action, error) from error


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _code(error: Any) -> str:
    """The HTTP status or S3's error code in a client's error; "" if there is none."""
    response = getattr(error, "response", None)  # botocore's
    if isinstance(response, dict) and "Error" in response:
        return str(response["Error"].get("Code", ""))
    return str(getattr(error, "code", None) or getattr(error, "status", None) or "")
