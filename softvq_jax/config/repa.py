"""The fields of `config.repa`: alignment of a generator's hidden tokens with a teacher."""

from softvq_jax.config.fields import Field, Schema, integer, number, text
from softvq_jax.config.networks import dinov2_weights

REPA: Schema = {
    "weight": Field(
        0.0,
        "Weight of REPA's loss (arXiv 2410.06940; 0.5 there), for SiT and DiT trained from images; 0 turns it off.",
        number(0),
    ),
    "block": Field(8, "Number of blocks before the tokens that are aligned.", integer(1), "blocks"),
    "hidden": Field(2048, "Hidden width of the projection to the teacher's channels.", integer(1), "channels"),
    "teacher": Field(
        dinov2_weights("B"), "DINOv2 teacher; used if `weight` is above 0. A path, or hf://owner/name/file.", text()
    ),
}
