"""Files of JSON lines: what is wrong is named with file and line; a half-written end is left out."""

import pytest

from softvq_jax.storage import json_lines


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"5", "line 2, is 5; expected a JSON object"),
        (b'{"step": null}', "line 2: step is None; expected an integer"),
        (b'{"loss": 1}', "line 2: step is None"),
        (b'{"step": 1.5}', "line 2: step is 1.5"),
        (b'{"step": true}', "line 2: step is True"),
        (b'{"step": -1}', "line 2: step is -1"),
        (b'{"step": 2, "loss": "low"}', "line 2: loss is 'low'; expected a number"),
        (b"\xff\xfe", "line 2, is not UTF-8"),
        (b'{"step": 2', "line 2, is not valid JSON"),
        (b"[" * 100_000, "line 2, is not valid JSON"),
    ],
)
def test_a_line_that_no_run_writes_is_named(line, says, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": NaN}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match=says) as caught:
        json_lines.read_metrics(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("end", [b"", b'{"step": 2, "lo', b"\0\0\0\0", b"\xff", b"5"])
def test_an_end_that_was_not_written_completely_is_left_out(end, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\n{"step": 1, "loss": 0.5}\n' + end)
    assert json_lines.read_metrics(path) == [{"step": 1, "loss": 0.5}]
    assert json_lines.read(tmp_path / "absent") == {}


def test_blank_lines_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\n\n{"step": 1}\n5\n')
    with pytest.raises(ValueError, match="line 4"):
        json_lines.read_metrics(path)
