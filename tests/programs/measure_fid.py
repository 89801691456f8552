"""Prints the FID of two sets of random images, with a small network on all devices.

python -m tests.programs.measure_fid <folder> <batch size> <seed of the order>
"""

import pathlib
import sys

import jax
import numpy as np

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluator import evaluate
from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.evaluate.image_sets import ArrayImages
from softvq_jax.evaluate.predictions import ImageSet
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.models.functional import Functional
from tests.small_inception import SmallInception

folder, batch_size, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
devices, net = LocalDevices(batch_size), Functional(SmallInception)
extractor = FeatureExtractor(net, net.init(jax.random.key(0))[0], devices=devices)
sets = []
for high in (200, 256):
    images = np.random.default_rng(high).integers(0, high, (61, 16, 16, 3), dtype=np.uint8)
    images = images[np.random.default_rng(seed).permutation(len(images))]
    sets.append(ImageSet(ArrayImages(images), extractor))
record = evaluate(*sets, PROTOCOLS["softvq-rfid"], folder=folder, batch_size=devices.batch_size)
print(jax.device_count(), repr(record.metrics["fid"]))
