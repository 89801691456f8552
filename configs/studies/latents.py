"""What can be read off the latents: which photograph a crop is of, by a linear probe and by nearest neighbours.

    python -m softvq_jax.main --config=configs/studies/latents.py --workdir=runs/latents

Before and after the bottleneck, on the mean token and on all tokens, beside the share of the most frequent class; and a
map and nearest neighbours as pictures, in every run's folder (`--config.map=umap` needs the extra `umap`). Data without
classes have the pictures alone. Six runs of `configs/tiny.py`, shortened. Cost: two and a half minutes on two cores. The
paper says that linear probes on SoftVQ's latents beat VQ's and AE's at every token count.
"""

from softvq_jax.config.study import beside, shortened, study_config, variant

BOTTLENECKS = {"softvq": "SoftVQ", "vq": "VQ", "ae": "AE"}


def get_config():
    kinds = ("probe_pooled", "probe_all", "knn_pooled", "knn_all")
    columns = [f"{kind}_{side}" for kind in kinds for side in ("before", "after")]
    return study_config(
        "latents",
        shortened(beside(__file__, "tiny"), 200),
        {
            f"{name}_{tokens}": variant(words, tokens, model=dict(bottleneck=name, num_latent_tokens=tokens))
            for tokens in (64, 16)
            for name, words in BOTTLENECKS.items()
        },
        measures=("reconstruction", "latents", "latent_pictures"),
        x="Tokens",
        columns=("psnr", *columns, "probe_pixels", "probe_chance"),
        panels=("probe_pooled_after", "probe_all_after", "knn_all_after"),
    )
