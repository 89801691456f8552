"""A run that does not fit the checkpoints in its workdir: the messages name what differs."""

import pytest

from softvq_jax.train.compatibility import (
    ConfigMismatch,
    DataMismatch,
    WeightsMismatch,
    check_config,
    check_data,
    check_weights,
)


def test_the_message_names_the_shards_that_differ():
    before = {"fingerprint": "a", "parts": {"0.tar": "10-aa", "1.tar": "20-bb", "2.tar": "30-cc"}}
    after = {"fingerprint": "b", "parts": {"0.tar": "10-aa", "1.tar": "20-dd", "3.tar": "40-ee"}}
    check_data(before, dict(before), "x")
    with pytest.raises(DataMismatch, match=r"data\.path='x'") as error:
        check_data(before, after, "x")
    lines = str(error.value).splitlines()[1:-1]
    assert lines == [
        "  3.tar: added (40-ee)",
        "  2.tar: removed (30-cc)",
        "  1.tar: 20-bb in the checkpoint, 20-dd now",
    ]
    many = {"fingerprint": "c", "parts": before["parts"] | {f"{i}.tar": "1-aa" for i in range(10, 20)}}
    with pytest.raises(DataMismatch, match=r"14\.tar: added[^$]*and 5 more"):
        check_data(before, many, "x")


def test_the_message_names_the_networks_and_paths_that_differ():
    old, new = {"weights.dino": "a", "weights.teacher": "b"}, {"weights.dino": "a", "weights.teacher": "c"}
    check_weights({"trunk": "1", "teacher": "2"}, {"trunk": "1"}, old, new)
    with pytest.raises(
        WeightsMismatch, match=r"teacher: 2 in the checkpoint, 3 now\n.*\n  weights.teacher: 'b', now 'c'\n"
    ):
        check_weights({"trunk": "1", "teacher": "2"}, {"trunk": "1", "teacher": "3"}, old, new)


def test_a_field_newer_than_the_checkpoint_counts_as_its_default():
    saved, defaults = {"optim.eps": 1e-8}, {"optim.eps": 1e-8, "optim.new": 0, "model.of_another_task": 1}
    check_config(saved, saved | {"optim.new": 0}, defaults)
    with pytest.raises(ConfigMismatch, match=r"optim\.new: 0 in the checkpoint, 1 now"):
        check_config(saved, saved | {"optim.new": 1}, defaults)


def test_checkpoints_from_before_images_were_turned_upright_ask_for_it():
    """They were trained on images as stored; resuming otherwise would change them silently."""
    saved, now = {"seed": 0}, {"seed": 0, "data.exif": "apply", "data.background": "white", "data.max_pixels": 9}
    with pytest.raises(ConfigMismatch, match=r"data\.background: 'ignore' in the checkpoint, 'white' now"):
        check_config(saved, now, {"data.exif": "apply", "data.background": "white"})
    check_config(saved, now | {"data.exif": "ignore", "data.background": "ignore"})
