"""Lines appended in a bucket: a reader sees all of them in order at any time, and none is written many times."""

import json

import pytest

from softvq_jax.storage import json_lines, line_log
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.line_log import BucketLog, open_log, parts_folder
from softvq_jax.storage.paths import as_path


def _lines(start, stop):
    return [json.dumps({"step": i}).encode() + b"\n" for i in range(start, stop)]


def test_a_reader_sees_every_line_at_any_time(bucket):
    path = bucket / "run" / "metrics.jsonl"
    assert not line_log.exists(path) and json_lines.read_metrics(path) == []
    log = BucketLog(path, seconds=1000)
    log.rewrite(_lines(0, 3))
    for i in range(3, 40):  # uploads one by one, so that parts are merged twice
        log.append(_lines(i, i + 1)[0])
        log.sync()
        if i in (3, 18, 19, 35):
            assert [line["step"] for line in json_lines.read_metrics(path)] == list(range(i + 1))
    assert len(list(parts_folder(path).iterdir())) == 37 % 16 + 37 // 16
    log.append(_lines(40, 41)[0])
    log.close()
    assert path.read_bytes() == b"".join(_lines(0, 41)) == line_log.read(path)
    assert not parts_folder(path).is_dir()


def test_a_run_that_resumes_removes_later_lines(bucket):
    path = bucket / "metrics.jsonl"
    log = BucketLog(path, seconds=1000)
    log.rewrite([])
    for line in _lines(0, 5):
        log.append(line)
    log.sync()  # and is killed
    log = open_log(path)
    log.rewrite(_lines(0, 3))
    log.append(_lines(9, 10)[0])
    log.sync()
    assert [line["step"] for line in json_lines.read_metrics(path)] == [0, 1, 2, 9]


def test_parts_of_a_merge_that_was_interrupted_count_once(bucket):
    path = bucket / "metrics.jsonl"
    path.write_bytes(b"".join(_lines(0, 2)))
    for first, last in ((2, 3), (4, 4), (2, 4), (5, 6), (0, 1)):
        part = parts_folder(path) / f"{first:010d}-{last:010d}"
        part.write_bytes(b"".join(_lines(first, last + 1)))
    assert line_log.read(path) == b"".join(_lines(0, 7))


def test_a_failed_upload_is_raised(proxy):
    path = proxy.root / "metrics.jsonl"
    log = BucketLog(path, seconds=1000)
    log.rewrite([])
    proxy.fault = lambda method, uri: 403
    log.append(b"{}\n")
    with pytest.raises(PermissionError, match="no permission to write"):
        log.sync()
    proxy.fault = lambda method, uri: 0
    log.sync()  # nothing is lost
    assert line_log.read(path) == b"{}\n"


def test_ten_thousand_lines_cost_the_same_at_the_end_as_at_the_start(monkeypatch):
    """Each line is uploaded once and merged twice, also near the end, by one request for ten lines and 1/16 for merges."""
    written = []
    monkeypatch.setattr(BucketPath, "write_bytes", lambda path, content: written.append(len(content)))
    monkeypatch.setattr(BucketPath, "unlink", lambda path, missing_ok: None)
    log, costs = BucketLog(as_path("gs://bucket/metrics.jsonl"), seconds=1000), []
    lines = [b'{"step": %05d}\n' % step for step in range(12 * 16 * 10 * 5)]  # 9,600
    for i, line in enumerate(lines):
        log.append(line)
        if i % 10 == 9:
            log.sync()
        if (i + 1) % (len(lines) // 5) == 0:
            costs.append((sum(written), len(written)))
            written.clear()
    size = sum(map(len, lines)) / 5
    assert len(costs) == 5 and all(2 * size <= written <= 4 * size for written, _ in costs)
    assert all(192 <= requests <= 192 * 17 / 15 for _, requests in costs)
