"""Prints the FID of two sets of random images, with a small network on all devices.

python -m tests.programs.measure_fid <folder> <batch size> <seed of the order>
"""

import sys

import jax
import numpy as np

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluation import Side, distribution_metrics
from softvq_jax.evaluate.image_sets import ArrayImages
from softvq_jax.evaluate.inception_features import FeatureExtractor
from softvq_jax.evaluate.measure import measure
from softvq_jax.evaluate.predictions import ImageSet
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.row_cache import Records
from softvq_jax.models.functional import Functional
from tests.small_inception import SmallInception

folder, batch_size, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
devices, net = LocalDevices(batch_size), Functional(SmallInception)
extractor = FeatureExtractor(net, net.init(jax.random.key(0))[0], devices=devices)
sides = []
for name, high in (("samples", 200), ("reference", 256)):
    images = np.random.default_rng(high).integers(0, high, (61, 16, 16, 3), dtype=np.uint8)
    images = images[np.random.default_rng(seed).permutation(len(images))]
    subject = ImageSet(ArrayImages(images), extractor)
    records = Records(f"{folder}/{name}", subject.about())
    measure(subject, records, batch_size=devices.batch_size)
    sides.append(Side.of_records(name, records))
print(jax.device_count(), repr(distribution_metrics(PROTOCOLS["softvq-rfid"], *sides)[0]["fid"]))
