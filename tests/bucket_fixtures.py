"""Buckets on servers of this machine; see `tests/bucket_servers.py`."""

import pytest

from softvq_jax.storage import bucket_errors, buckets
from softvq_jax.storage.paths import as_path
from tests import bucket_servers


@pytest.fixture(scope="session")
def gcs(tmp_path_factory):
    """The URL of a server of `gs://` buckets, with the empty bucket `softvq-test`."""
    buckets.prepare()
    pytest.importorskip("gcsfs")
    with bucket_servers.gcs_server(tmp_path_factory.mktemp("gcs")) as url:
        bucket_servers.make_gcs_bucket(url, "softvq-test")
        yield url


@pytest.fixture(scope="session")
def s3():
    """The URL of a server of `s3://` buckets, with the empty bucket `softvq-test`."""
    buckets.prepare()
    pytest.importorskip("s3fs")
    with bucket_servers.s3_server() as url:
        bucket_servers.make_s3_bucket(url, "softvq-test")
        yield url


@pytest.fixture(params=["gs", pytest.param("s3", marks=pytest.mark.slow)])
def proxy(request, monkeypatch):
    """A proxy before the server of one kind of bucket, which can be told to fail; `proxy.root` is the bucket."""
    monkeypatch.setattr(bucket_errors, "RETRY_SECONDS", 1.0)
    monkeypatch.setattr(bucket_errors, "FIRST_WAIT", 0.1)
    url = request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param])
    settings = {"gs": bucket_servers.gcs_environment, "s3": bucket_servers.s3_environment}[request.param]
    with bucket_servers.Proxy(url) as found, bucket_servers.environment(settings(found.url)):
        found.root = as_path(f"{request.param}://softvq-test")
        yield found
        found.fault = lambda method, path: 0
        found.root.rmtree()


@pytest.fixture
def bucket(proxy):
    """The root of an empty bucket, once `gs://` and once `s3://`."""
    return proxy.root


@pytest.fixture
def gs_folder(gcs, tmp_path):
    """A folder in a `gs://` bucket."""
    yield from _folder("gs://softvq-test/folder", bucket_servers.gcs_environment(gcs), tmp_path)


@pytest.fixture
def s3_folder(s3, tmp_path):
    """A folder in an `s3://` bucket."""
    yield from _folder("s3://softvq-test/folder", bucket_servers.s3_environment(s3), tmp_path)


def _folder(uri, server, tmp_path):
    with bucket_servers.environment(server | {"SOFTVQ_CACHE_DIR": str(tmp_path / "copies")}):
        folder = as_path(uri)
        yield folder
        folder.rmtree()
