"""Kinds `softvq_quantizer` and `simvq_quantizer`: the bottlenecks alone, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.models.quantizers import SimVQ, SoftVQ
from tests.parity import recipe


def run_softvq(case, arrays):
    a, seed = case["arguments"], case["seed"]
    z = recipe.noise("z", (a["batch"], a["tokens"], a["dim"]), seed)
    cotangent = recipe.noise("cotangent", z.shape, seed)
    (codebook,) = recipe.state_dict(case).values()
    results = {}
    for l2 in (0, 1):
        for tau in a["taus"]:
            quantizer = SoftVQ(
                a["dim"],
                a["codebook_size"],
                a["num_codebooks"],
                temperature=tau,
                l2_normalize=bool(l2),
                posterior="released",
                rngs=nnx.Rngs(0),
            )
            graphdef, _ = nnx.split(quantizer)

            def forward(codebook, z, graphdef=graphdef):
                out = nnx.merge(graphdef, {"codebook": codebook})(z)
                entropy = 0.01 * out.losses["entropy"]
                return jnp.sum(out.latents * cotangent) + entropy, (out.latents, entropy)

            grads, (z_q, entropy) = jax.jit(jax.grad(forward, argnums=(0, 1), has_aux=True))(codebook, z)
            name = f"l2{l2}_tau{tau:g}"
            results |= {
                f"z_q_{name}": z_q,
                f"entropy_{name}": entropy,
                f"grad_z_{name}": grads[1],
                f"grad_embedding_{name}": grads[0][:, ::8],
            }
    return results


def run_simvq(case, arrays):
    a, seed = case["arguments"], case["seed"]
    state = recipe.state_dict(case)
    z = 0.3 * recipe.noise("z", (a["batch"], a["tokens"], a["dim"]), seed)
    cotangent = recipe.noise("cotangent", z.shape, seed)
    quantizer = SimVQ(a["dim"], a["codebook_size"], 1, train_codebook=False, rngs=nnx.Rngs(0))
    graphdef, _ = nnx.split(quantizer)
    params = {
        "codebook": state["embedding.weight"][None],
        "projection": state["embedding_proj.weight"].T,
        "projection_bias": state["embedding_proj.bias"],
    }

    def forward(params, z):
        out = nnx.merge(graphdef, params)(z)
        loss = 0.25 * out.losses["commitment"] + out.losses["codebook"]
        return jnp.sum(out.latents * cotangent) + loss, (out, loss)

    (grads, grad_z), (out, loss) = jax.jit(jax.grad(forward, argnums=(0, 1), has_aux=True))(params, z)
    assert not np.any(grads["codebook"]), "the frozen codebook has a gradient"
    return {
        "z_q": out.latents,
        "indices": np.asarray(out.indices).reshape(a["batch"], a["tokens"]),
        "loss": loss,
        "grad_z": grad_z,
        "grad_proj_weight": grads["projection"].T,
        "grad_proj_bias": grads["projection_bias"],
    }


KINDS = {"softvq_quantizer": run_softvq, "simvq_quantizer": run_simvq}
