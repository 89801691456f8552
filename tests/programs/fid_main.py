"""`python -m softvq_jax.main` with a small network in place of Inception.

python -m tests.programs.fid_main --config=... --workdir=... [any flag of main]
"""

import json
import os
import sys

from softvq_jax import main
from softvq_jax.train import fid
from tests.programs import CLUSTER, join_flags


def small(name):
    import jax

    from softvq_jax.models.functional import Functional
    from tests.small_inception import SmallInception

    net = Functional(SmallInception)
    return net, net.init(jax.random.key(0))[0]


if CLUSTER in os.environ:
    sys.argv += join_flags(*json.loads(os.environ[CLUSTER]))
fid.load_inception = small
main.run()
