"""The metadata is in pyproject.toml; here are only the packages, because `configs/` is installed inside `softvq_jax`."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["softvq_jax", "softvq_jax.*"]),
        "softvq_jax.configs",
        "softvq_jax.configs.studies",
    ],
    package_dir={"softvq_jax.configs": "configs"},
)
