import os

from softvq_jax.storage.paths import expand, expand_arguments


def test_homes_and_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/data/runs")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert expand("~/a") == os.path.expanduser("~/a") == "/home/me/a" and expand("${RUNS}/a") == "/data/runs/a"
    assert (
        expand("$NOT_SET/a") == "$NOT_SET/a" and expand("hf://a/b~c") == "hf://a/b~c" and expand("a@train") == "a@train"
    )
    words = ["--out=~/a", "--config.data.path=$RUNS/x", "~/b", "--reference=/mnt/$RUNS", "--note=costs $RUNS", "--x"]
    assert expand_arguments(words) == [
        "--out=/home/me/a", "--config.data.path=/data/runs/x", "/home/me/b", "--reference=/mnt//data/runs",
        "--note=costs $RUNS", "--x",
    ]  # fmt: skip
