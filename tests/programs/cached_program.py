"""Compiles a program with the commands' cache; prints hits, a digest of the result and the fingerprint of the CPU.

python -m tests.programs.cached_program [LARGEST_FILE_IN_BYTES]
"""

import hashlib
import json
import resource
import signal
import sys

import jax
import jax.numpy as jnp
from jax._src.lib import xla_client  # private: what JAX's key of a program has of the CPU

from softvq_jax.parallel import compilation_cache

if __name__ == "__main__":
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
    compilation_cache.set_up()
    if len(sys.argv) > 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
    x = jnp.sin(jnp.arange(200.0 * 200)).reshape(200, 200)
    result = jax.jit(lambda x: jax.lax.scan(lambda y, _: (jnp.tanh(y @ x), y.sum()), x, length=7))(x)
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.device_get(jax.tree.leaves(result)))).hexdigest()
    fingerprint = xla_client.get_topology_for_devices(jax.devices()).fingerprint()
    print(json.dumps({"hits": len(hits), "result": digest, "cpu": fingerprint}))
