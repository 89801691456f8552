"""The fields of `config.eval` and `config.fid`."""

from softvq_jax.config.fields import Field, Schema, integer, text
from softvq_jax.config.run import EVERY_STEPS

EVALUATION: Schema = {
    "eval": {
        "every_steps": Field(
            5000, "Steps between held-out evaluations; 0: only after the last step.", EVERY_STEPS, "steps"
        ),
        "num_images": Field(5000, "Held-out images, or all if there are fewer.", integer(1), "images"),
        "batch_size": Field(0, "Images of each batch, over all devices; 0: as in training.", integer(0), "images"),
        "num_pictures": Field(16, "Images of the grid that is written.", integer(0), "images"),
    },
    "fid": {
        "every_steps": Field(0, "Steps between FIDs, also after the last step; 0: never.", EVERY_STEPS, "steps"),
        "weights": Field(
            "weights/pt_inception-2015-12-05-6726825d.pth",
            "Weights of the FID network: a path, or hf://owner/name/file.",
            text(),
        ),
        "num_images": Field(5000, "Images on which FID is measured.", integer(1), "images"),
        "reference": Field("", "Images or statistics (.npz) to compare with; empty: the held-out images.", text()),
    },
}
