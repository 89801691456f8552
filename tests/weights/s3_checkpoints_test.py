"""Orbax describes arrays in `s3://` as it describes them in `gs://`; another Orbax is refused."""

import pytest

from softvq_jax.weights import s3_checkpoints
from tests import bucket_servers

pytest.importorskip("s3fs")
tensorstore_utils = pytest.importorskip("orbax.checkpoint._src.serialization.tensorstore_utils")


@pytest.fixture
def unchanged(monkeypatch):
    """Orbax without the wrapper, and a server of S3, to which nothing is sent."""
    build = tensorstore_utils.build_kvstore_tspec
    monkeypatch.setattr(tensorstore_utils, "build_kvstore_tspec", getattr(build, "__wrapped__", build))
    with bucket_servers.environment(bucket_servers.s3_environment("http://127.0.0.1:9")):
        yield tensorstore_utils.build_kvstore_tspec


def test_only_the_driver_differs_from_that_of_gs(unchanged):
    writes = tensorstore_utils.OcdbtKvStoreWriteOptions(mode=tensorstore_utils.OcdbtWriteMode.WRITE)
    cases = [{"use_ocdbt": False}, {"name": "a"}, {"name": "a", "ocdbt_write_options": writes}]
    with pytest.raises(ValueError, match="absolute"):
        unchanged("s3://bucket/run/1")
    expected = [unchanged("gs://bucket/run/1", **case) for case in cases]
    s3_checkpoints.prepare_orbax("s3://bucket/run")
    s3_checkpoints.prepare_orbax("s3://bucket/run")  # does nothing
    build = tensorstore_utils.build_kvstore_tspec
    assert build.__wrapped__ is unchanged
    server = {"endpoint": "http://127.0.0.1:9", "aws_region": "us-east-1", "aws_credentials": {"type": "environment"}}
    base = {"driver": "s3", "bucket": "bucket", "path": "run/1", **server}
    assert [build("s3://bucket/run/1", **case) for case in cases] == [
        base,
        *(spec | {"base": base} for spec in expected[1:]),
    ]
    assert expected[2]["target_data_file_size"] == 400 * 2**20  # TensorStore uploads an object at once: at most 5 GB
    for path in ("gs://bucket/run/1", "/data/run/1"):
        assert [build(path, **case) for case in cases] == [unchanged(path, **case) for case in cases]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.eu-west-1.amazonaws.com", {}),  # TensorStore finds the region of the bucket
        pytest.param("https://s3.amazonaws.com", {}, marks=pytest.mark.slow),
        ("https://minio.example.org:9000/", {"endpoint": "https://minio.example.org:9000", "aws_region": "us-east-1"}),
        pytest.param(
            "https://s3.cn-north-1.amazonaws.com.cn",
            {"endpoint": "https://s3.cn-north-1.amazonaws.com.cn"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tensorstore_asks_the_server_of_the_other_files(url, expected, unchanged):
    with bucket_servers.environment(bucket_servers.s3_environment(url)):
        found = s3_checkpoints._server()
    assert found.pop("aws_credentials") == {"type": "environment"}
    assert found == ({**expected, "aws_region": "us-east-1"} if expected else {})


def test_another_orbax_is_one_line(unchanged, monkeypatch):
    def refused():
        with pytest.raises(
            ValueError, match=r"s3://bucket/run: checkpoints cannot be in s3:// with orbax-checkpoint"
        ) as e:
            s3_checkpoints.prepare_orbax("s3://bucket/run")
        assert "\n" not in str(e.value)

    with monkeypatch.context() as patch:  # a function that answers otherwise
        patch.setattr(tensorstore_utils, "build_kvstore_tspec", lambda directory, **_: {"driver": "file"})
        refused()
    with monkeypatch.context() as patch:  # none
        patch.delattr(tensorstore_utils, "build_kvstore_tspec")
        refused()
    with monkeypatch.context() as patch:  # one that is called by other names
        from orbax.checkpoint._src.serialization import ocdbt_utils

        patch.setattr(ocdbt_utils, "build_kvstore_tspec", unchanged, raising=False)
        refused()
    assert tensorstore_utils.build_kvstore_tspec is unchanged
    s3_checkpoints.prepare_orbax("gs://bucket/run")
    s3_checkpoints.prepare_orbax("/data/run")
    assert tensorstore_utils.build_kvstore_tspec is unchanged
