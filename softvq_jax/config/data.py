"""The fields of `config.data`. The crop's size is the model's image size."""

from typing import Any

from softvq_jax.config.fields import Field, Schema, defaults, integer, number, one_of, text

DATA: Schema = {
    "source": Field(
        "folder",
        '"embedded": photographs in scikit-image. "folder": images, one subfolder for each class. "array_record": '
        'shards by tools.prepare_dataset. "tar": WebDataset shards or ImageNet\'s archive. "tfds": TensorFlow Datasets. '
        '"latents", for generators: shards by tools.encode_latents.',
        one_of("embedded", "folder", "array_record", "tar", "tfds", "latents"),
    ),
    "path": Field("", 'Training images; for "tfds" a name such as imagenet2012@train, for "embedded" empty.', text()),
    "eval_path": Field("", "Held-out images, of the same source; if empty, a share of `path` is held out.", text()),
    "holdout": Field(
        0.02,
        'Share of the images held out without `eval_path`; for "embedded" a share of the width of each photograph.',
        number(0, below=1),
        "share",
    ),
    "augment": Field(
        "random_crop",
        '"random_crop" is ADM\'s; "random_region" is a square of random position and scale in a large photograph. Both '
        "also flip at random.",
        one_of("random_crop", "random_region"),
    ),
    "num_workers": Field(0, "Processes that read images; 0: threads of this process.", integer(0, 4096), "processes"),
    "prefetch": Field(2, "Batches read ahead.", integer(0, 4096), "batches"),
    "max_unreadable_share": Field(
        0.1, "Share of images that may be unreadable; more stop the run.", number(0, 1), "share"
    ),
}


def default_data_config() -> dict[str, Any]:
    """Returns the default values of `config.data`."""
    return defaults(DATA)
