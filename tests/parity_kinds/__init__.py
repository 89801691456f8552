"""One function per kind of parity case: `run(case, arrays) -> {name: our array}`.

`case` is the parsed JSON, `arrays` the content of the `.npz`, which for some kinds includes inputs. The function returns a
value for every array of the case that is a result; a module's `INPUTS` names the others. All settings of a case are read
from it.
"""

import importlib
from collections.abc import Callable

MODULES = {
    "tokenizer": "tokenizers",
    "softvq_quantizer": "quantizers",
    "simvq_quantizer": "quantizers",
    "dinov2": "dinov2",
    "dinov2_hf": "dinov2",
    "siglip": "siglip",
    "lpips": "adversarial",
    "dino_discriminator": "adversarial",
    "patchgan": "adversarial",
    "gan_losses": "adversarial",
    "train_trace": "train_trace",
    "crops": "crops",
    "sit": "generators",
    "dit": "generators",
    "mar": "generators",
    "titok": "titok",
    "maskgit": "maskgit",
    "maetok": "maetok",
    "maetok_losses": "maetok",
    "inception": "metrics",
    "fid_metrics": "metrics",
    "pixel_metrics": "metrics",
}


def of_kind(kind: str) -> tuple[Callable, tuple[str, ...]]:
    """The function that runs cases of this kind, and the names of the arrays that are its inputs."""
    if kind not in MODULES:
        raise KeyError(f"no runner for cases of kind {kind!r}; known: {', '.join(MODULES)}")
    module = importlib.import_module(f"{__name__}.{MODULES[kind]}")
    return module.KINDS[kind], tuple(getattr(module, "INPUTS", {}).get(kind, ()))
