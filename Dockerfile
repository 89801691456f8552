# An image for TPU slices on GKE (XPK) and for hosts with GPUs.
#
#   docker build --build-arg EXTRAS=tpu,gcs --tag softvq .    # TPUs, paths in gs:// buckets
#   docker build --build-arg EXTRAS=cuda --tag softvq .       # NVIDIA GPUs; the wheels bring CUDA, the host its driver
#   docker run --gpus all softvq train --config=tiny --workdir=/runs/tiny
#
# XPK gives its own command (python3 -m softvq_jax.main ...) in place of the entry point.
FROM python:3.12-slim-bookworm

ARG EXTRAS=tpu,gcs

# Print lines of the log at once.
ENV PYTHONUNBUFFERED=1

WORKDIR /opt/softvq-jax
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs configs
COPY softvq_jax softvq_jax
# The package is this folder, not one from an index, so there is no version to pin.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]"

# The entry point is process 1 of the container, so that it gets SIGTERM, on which a run saves.
WORKDIR /
ENTRYPOINT ["softvq"]
CMD ["--help"]
