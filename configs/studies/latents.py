"""Probes of the latents, which predict the photograph that a crop is from by a linear model and nearest neighbors.

    python -m softvq_jax.main --config=configs/studies/latents.py --workdir=runs/latents

Probes use the mean token or all tokens, before or after the bottleneck; the baseline is the most frequent class. A map of
the latents and pictures of nearest neighbors are written to each run's folder (`--config.map=umap` needs the extra `umap`);
for data without classes, only these are made. Eighteen shortened runs of `tiny`. They are also runs of the study
`bottlenecks`: copies of its folders (`softvq_*`, `vq_*`, `ae_*`) in the workdir are only measured. Needs the extra
`studies`. In the paper, linear probes are better on SoftVQ's latents than on VQ's and AE's for every number of tokens.
"""

from softvq_jax.config.study import study_config, tiny_base, variant

BOTTLENECKS = {"softvq": "SoftVQ", "vq": "VQ", "ae": "AE"}


def get_config():
    kinds = ("probe_pooled", "probe_all", "knn_pooled", "knn_all")
    columns = [f"{kind}_{side}" for kind in kinds for side in ("before", "after")]
    return study_config(
        "latents",
        tiny_base(__file__),
        {
            f"{name}_{tokens}": variant(label, tokens, model=dict(bottleneck=name, num_latent_tokens=tokens))
            for tokens in (8, 4)
            for name, label in BOTTLENECKS.items()
        },
        measures=("reconstruction", "latents", "latent_pictures"),
        x="Tokens",
        columns=("psnr", *columns, "probe_pixels", "probe_chance"),
        panels=("probe_pooled_after", "probe_all_after", "knn_all_after"),
        seeds=3,
    )
