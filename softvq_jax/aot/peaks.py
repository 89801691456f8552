"""Peak arithmetic of accelerators, by the name that JAX gives to a device (`device_kind`).

In bfloat16, dense (without sparsity), per device, from the makers' public data sheets. A device is a TPU chip (v4 and
later) or a GPU.
"""

from softvq_jax.aot.chips import CHIPS

_TPUS = {
    "v4": ("TPU v4",),
    "v5e": ("TPU v5 lite", "TPU v5e"),
    "v5p": ("TPU v5", "TPU v5p"),
    "v6e": ("TPU v6 lite", "TPU v6e"),
}
_GPUS = {  # the longest name with which a device's kind begins counts
    "NVIDIA A100": 312e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100": 989e12,  # SXM
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the bfloat16 peak of a device in operations per second (a multiply-add is two); None for unknown kinds."""
    for chip, kinds in _TPUS.items():
        if device_kind in kinds:
            return CHIPS[chip].matmul_flops
    for name in sorted(_GPUS, key=len, reverse=True):
        if device_kind == name or device_kind.startswith((f"{name} ", f"{name}-")):
            return _GPUS[name]
    return None
