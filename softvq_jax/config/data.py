"""The fields of a config's `data` section and their defaults."""


def default_data_config() -> dict:
    """Defaults of `config.data`; the crop's size is the model's image size."""
    return {
        # "embedded": photographs inside scikit-image. "folder": images, one subfolder a class. "array_record": what
        # tools.prepare_dataset writes. "tar": WebDataset shards or ImageNet's archive. "tfds": TensorFlow Datasets.
        # "latents", for generators: what tools.encode_latents writes.
        "source": "folder",
        "path": "",  # where the training images lie; for "tfds" a name as imagenet2012@train; for "embedded" nothing
        "eval_path": "",  # the held-out images, of the same source; without it a share of `path` is held out:
        "holdout": 0.02,  # that share of the images; for "embedded" of the width of each photograph
        # "random_crop": ADM's. "random_region": a square of any place and scale of a large photograph. Both then flip.
        "augment": "random_crop",
        "num_workers": 0,  # reading processes; 0: threads of this process
        "prefetch": 2,  # batches read ahead
        "max_unreadable_share": 0.1,  # of the images read; more stop the run
    }
