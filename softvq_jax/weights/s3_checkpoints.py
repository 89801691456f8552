"""Lets Orbax read and write checkpoints in `s3://` buckets.

Orbax 0.12.8 refuses `s3://` in one place. Its function `build_kvstore_tspec` tells TensorStore where the arrays of a folder
are, for `gs://` and for absolute local paths. TensorStore itself can write to S3, and all else that depends on the kind of
storage, such as the marker of complete checkpoints, can be chosen by options. There is no option for this function: the
handlers of arrays call it, and so does the step that merges the arrays of all processes, which no handler can replace.

So this file wraps that function. For `s3://BUCKET/NAME`, Orbax is asked where `gs://BUCKET/NAME` is, and the driver in its
answer is exchanged. The layout, the sizes of objects and the merging of reads are then those of `gs://`. Its answers for
other paths are not changed. A version of Orbax that is built differently is refused.
"""

import functools
import importlib.metadata
import os
import re
import sys
import threading
from typing import Any

from softvq_jax.storage import bucket_errors, buckets

TESTED = "0.12.8"
"""The version of Orbax that the tests use."""
# Servers that TensorStore finds by itself, with their region.
_AMAZON = re.compile(r"https?://s3(\.[a-z0-9-]+)?\.amazonaws\.com/?")
_lock = threading.Lock()


def prepare_orbax(folder: str | os.PathLike) -> None:
    """Makes Orbax accept `s3://` in this process if `folder` is there; does nothing for other folders.

    Raises:
      ValueError: the installed version of Orbax is built differently.
      ImportError: the extra `s3` is not installed.
    """
    if not os.fspath(folder).startswith("s3://"):
        return
    _server()  # connects, and names a missing extra
    with _lock:
        try:
            if not _accepts_s3():
                _wrap()
            accepted = _accepts_s3()
        except Exception:  # anything may be missing in another version
            accepted = False
    if not accepted:
        version = importlib.metadata.version("orbax-checkpoint")
        raise ValueError(
            f"{folder}: checkpoints cannot be in s3:// with orbax-checkpoint {version}, which is built differently from "
            f"{TESTED}: pip install orbax-checkpoint=={TESTED}, or use a local folder or gs://"
        )


def _accepts_s3() -> bool:
    """Whether Orbax describes arrays in `s3://` as it should."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    expected = {"driver": "s3", "bucket": "bucket", "path": "folder/sub"}
    try:
        arrays = tensorstore_utils.ArrayReadSpec("s3://bucket/folder/sub", "a", use_zarr3=False, use_ocdbt=True).json
        file = tensorstore_utils.build_kvstore_tspec("s3://bucket/folder", name="sub", use_ocdbt=False)
    except ValueError:  # "Checkpoint path should be absolute"
        return False
    found = arrays["kvstore"].get("base"), file
    return all(isinstance(spec, dict) and expected.items() <= spec.items() for spec in found)


def _wrap() -> None:
    from orbax.checkpoint._src.serialization import tensorstore_utils

    build = tensorstore_utils.build_kvstore_tspec
    orbax = [(name, module) for name, module in sys.modules.items() if name.startswith("orbax.")]
    users = [name for name, module in orbax if any(value is build for value in list(vars(module).values()))]
    if users != [tensorstore_utils.__name__]:  # others would go on calling the function without the wrapper
        raise AttributeError(f"{users} hold build_kvstore_tspec")

    @functools.wraps(build)
    def build_kvstore_tspec(directory: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if match := re.match(r"s3:/{1,2}(?!/)", directory):
            return _on_s3(build(f"gs://{directory[match.end() :]}", *args, **kwargs), _server())
        return build(directory, *args, **kwargs)

    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _on_s3(spec: Any, server: dict[str, Any]) -> Any:
    """Replaces the drivers of Google Cloud Storage in a description for TensorStore, at any depth."""
    if isinstance(spec, list):
        return [_on_s3(inner, server) for inner in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get("driver") in ("gcs", "gcs_grpc"):
        return {**spec, "driver": "s3", **server}
    return {name: _on_s3(inner, server) for name, inner in spec.items()}


def _server() -> dict[str, Any]:
    """The server and the account for TensorStore: those of the client that reads and writes all other files."""
    found: dict[str, Any] = {}
    files = buckets.file_system("s3")
    with bucket_errors.translating("s3://", "open"):  # such as a profile that does not exist
        client = files.s3.meta
    if not _AMAZON.fullmatch(client.endpoint_url):
        found["endpoint"] = client.endpoint_url.rstrip("/")
        if client.region_name:
            found["aws_region"] = client.region_name
    # By default, both look in the same places. TensorStore looks in all of them, and complains about missing files.
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        found["aws_credentials"] = {"type": "environment"}
    return found
