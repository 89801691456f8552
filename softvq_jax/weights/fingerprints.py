"""Fingerprints of sets of images and of weights, which are equal if and only if the contents are."""

import hashlib

import jax
import numpy as np


def image_digests(images: np.ndarray) -> np.ndarray:
    """Returns a digest of each of `images` `[B, H, W, 3]` and its shape, `[B]` uint64."""
    shape = repr(images.shape[1:]).encode()
    digests = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, key=shape).digest() for image in images]
    return np.frombuffer(b"".join(digests), np.uint64)


def of_images(digests: np.ndarray) -> str:
    """Returns the fingerprint of a set of images, given their digests in any order."""
    return f"{len(digests)}-{int(np.sum(digests, dtype=np.uint64)):016x}"


def of_weights(params) -> str:
    """Returns the fingerprint of a parameter tree: its names, shapes, types and values."""
    state = hashlib.blake2b(digest_size=8)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for name, leaf in sorted((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves):
        array = np.asarray(leaf)
        state.update(f"{name} {array.shape} {array.dtype}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
