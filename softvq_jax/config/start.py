"""The fields that say what a new run starts from, and which of its parameters are trained."""

from softvq_jax.config.fields import Field, Schema, text

START: Schema = {
    "init_from": Field(
        "",
        "A trained model that a new run starts from: a folder, a run's workdir, a checkpoint's folder or a Hugging Face "
        "id. Empty: fresh weights.",
        text(),
    ),
    "freeze": Field(
        "",
        "Parameters that are not trained: path patterns, separated by commas, such as 'encoder,*/pos_embed'. '!' in "
        "front trains what an earlier pattern froze: '*,!decoder' trains the decoder alone.",
        text(),
    ),
}
