"""Values that no field can mean, tried in every field of every kind of config."""

import functools
import math

import pytest

from softvq_jax.config import check_values, load_config, schema_of
from softvq_jax.config.fields import flatten
from softvq_jax.config.reference import REFERENCE_CONFIGS

NEVER = [math.nan, math.inf, -math.inf, b"x", 1j, object(), [], (), {}, [1], -2, -1e-9, -(10**30)]
MINUS_ONE = {"mesh.slices", "mesh.data", "mesh.fsdp"}  # all of them
ANY_NUMBER = {"sampling.guidance"}  # an extrapolation: all numbers have a meaning
NONE = ("layer_scale", "rope_theta")  # no LayerScale, no rotary positions
EMPTY = {  # nothing: no weights, no held-out folder, no evaluation of this kind
    *("init_from", "freeze", "tokenizer", "repa.teacher", "evals.fid.weights", "evals.fid.reference"),
    *("data.path", "data.eval_path", "data.label_file", "data.eval_label_file"),
    *("checkpoint.best_metric", "checkpoint.fallback", "log.writers"),
}


@pytest.mark.parametrize("name", REFERENCE_CONFIGS)
def test_no_field_takes_what_it_cannot_mean(name):
    accepted = {}
    for field, declared in flatten(schema_of(load_config(name))).items():
        takes, default = declared.allowed.check, declared.default
        values = [value for value in NEVER if takes(value) and field not in ANY_NUMBER]
        if takes(-1) and field not in MINUS_ONE | ANY_NUMBER:
            values.append(-1)
        if takes(None) and not field.endswith(NONE):
            values.append(None)
        if takes("") and field not in EMPTY and not field.startswith("weights."):
            values.append("")
        is_true_or_false = isinstance(default, bool)
        values += [value for value in (True, False) if takes(value) != is_true_or_false]
        if isinstance(default, str):
            values += [value for value in (0, 1, 0.5) if takes(value)]
        elif not is_true_or_false:
            values += [value for value in ("x", "1", "0.5") if takes(value)]
            if isinstance(default, int):
                values += [value for value in (1.0, 2.5) if takes(value)]
        if values:
            accepted[field] = values
    assert not accepted


@pytest.mark.parametrize("name", REFERENCE_CONFIGS)
def test_refusals_are_one_line_with_field_value_and_what_is_allowed(name):
    original = load_config(name)
    declared = flatten(schema_of(original))
    for field in declared:
        config = original.copy_and_resolve_references()
        *sections, last = field.split(".")
        section = functools.reduce(lambda section, part: section[part], sections, config)
        with section.ignore_type():
            section[last] = math.nan
        with pytest.raises(ValueError) as caught:
            check_values(config)
        # The family and the kind choose the schema.
        if field not in ("task", "model.family", "model.kind"):
            assert str(caught.value) == f"config.{field}=nan: expected {declared[field].allowed.text}"
        assert "nan" in str(caught.value) and "expected" in str(caught.value) and "\n" not in str(caught.value)
