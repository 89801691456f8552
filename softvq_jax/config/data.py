"""The fields of `config.data`. The crop's size is the model's image size."""

from typing import Any

from PIL import ImageColor

from softvq_jax.config.fields import Allowed, Field, Schema, defaults, integer, number, one_of, text


def _is_background(value: Any) -> bool:
    try:
        return value == "ignore" or bool(ImageColor.getrgb(value)[:3])
    except (ValueError, AttributeError, TypeError):
        return False


BACKGROUND = Allowed("a color (white, '#ff8000') or 'ignore'", _is_background)

DATA: Schema = {
    "source": Field(
        "folder",
        '"embedded": photographs in scikit-image. "folder": images, one subfolder for each class. "array_record": '
        'shards by tools.prepare_dataset. "tar": WebDataset shards or ImageNet\'s archive. "tfds": TensorFlow Datasets. '
        '"parquet": image sets of the Hugging Face Hub. "python": what `path`, "package.module:function", returns. '
        '"latents", for generators: shards by tools.encode_latents.',
        one_of("embedded", "folder", "array_record", "tar", "tfds", "parquet", "python", "latents"),
    ),
    "path": Field("", 'Training images; for "tfds" a name such as imagenet2012@train, for "embedded" empty.', text()),
    "eval_path": Field("", "Held-out images, of the same source; if empty, a share of `path` is held out.", text()),
    "classes": Field(
        "auto",
        'Classes of a folder: "folders": its subfolders; "names": the part of file names before "_"; "one": all the same; '
        '"auto": folders, or one without them.',
        one_of("auto", "folders", "names", "one"),
    ),
    "label_file": Field("", "File with the class of each image of the folder `path`, by name or in order.", text()),
    "eval_label_file": Field("", "The same for `eval_path`, such as ImageNet's LOC_val_solution.csv.", text()),
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
    "exif": Field(
        "apply",
        'EXIF orientation of images: "apply" turns them upright; "ignore" reads them as stored, as ADM does.',
        one_of("apply", "ignore"),
    ),
    "background": Field(
        "white",
        'Color under transparent pixels, by name or as "#rrggbb"; "ignore" drops the alpha channel, as ADM does.',
        BACKGROUND,
    ),
    "max_pixels": Field(300_000_000, "Larger images count as unreadable.", integer(1), "pixels"),
    "max_unreadable_share": Field(
        0.1, "Share of images that may be unreadable; more stop the run.", number(0, 1), "share"
    ),
}


def default_data_config() -> dict[str, Any]:
    """Returns the default values of `config.data`."""
    return defaults(DATA)
