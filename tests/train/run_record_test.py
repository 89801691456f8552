"""Records of checkpoints that were edited by hand: refused by name, or of no consequence; never another error."""

import copy
import json
import pathlib

import pytest

from softvq_jax.train.run_record import RunRecord

CONFIG = {"train.batch_size": 4, "train.num_steps": 10, "data.path": "x", "optim.learning_rate": 1e-3}
RUN = RunRecord(
    CONFIG, {"train.batch_size": 8}, {"encoder": "abc"}, {"fingerprint": "f", "parts": {"a": "1"}}, {"b": 1}
)
VALUES = ["abc", -1, 0, 2.5, [1], {}, True, None, 10**12, float("nan"), [{}], [[]]]


def saved_record():
    changes = [{"step": 2, "next_sample": 8, "fields": {"train.batch_size": [4, 4]}}]
    return json.loads(json.dumps(RUN.at_step(6) | {"changes": changes, "next_sample": 24}))


def continued(record):
    RUN.check(record, pathlib.Path("WORKDIR"), allow_changes=True)
    RUN.check_position(record)
    return RUN.after(record).at_step(record["step"], record["unreadable_images"])


def places(value, path=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def edited(record, path, change):
    record = inner = copy.deepcopy(record)
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return record


def test_every_field_with_other_values():
    record, refused = saved_record(), 0
    assert continued(record)["next_sample"] == 24
    changes = [lambda inner, key: inner.pop(key)]
    changes += [lambda inner, key, value=value: inner.__setitem__(key, value) for value in VALUES]
    for path in places(record):
        for number, change in enumerate(changes):
            try:
                continued(edited(record, path, change))
            except ValueError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{path}, change {number}: {error!r}") from error
    assert refused > 150


@pytest.mark.parametrize("name", ["published", "changes"])
def test_records_of_older_versions_are_read(name):
    record = RUN.at_step(6)
    del record[name]
    assert continued(record) == RUN.at_step(6)


def test_what_was_edited_is_named():
    with pytest.raises(ValueError, match=r"checkpoints in WORKDIR has changes=\[5\]: it was edited"):
        continued(saved_record() | {"changes": [5]})
    with pytest.raises(ValueError, match=r"has config.train.batch_size='4': it was edited"):
        continued(edited(saved_record(), ("config", "train.batch_size"), lambda inner, key: inner.update({key: "4"})))
