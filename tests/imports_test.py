"""Every module of the package can be imported."""

import json
import subprocess
import sys

EXTRAS = (
    *("fsspec", "gcsfs", "importlib_resources", "libtpu", "psutil", "pyarrow", "s3fs", "sklearn", "tensorboardX"),
    *("tensorflow_datasets", "torch", "umap", "wandb"),
)
PROGRAM = """
import importlib, json, pkgutil, sys
import softvq_jax
from absl import flags

errors, found = {}, [module.name for module in pkgutil.walk_packages(softvq_jax.__path__, "softvq_jax.")]
for name in found:
    try:
        importlib.import_module(name)
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] in sys.argv[1:]):
            errors[name] = repr(error)
    for flag in flags.FLAGS.get_flags_for_module(name):  # two commands may have flags of the same name
        delattr(flags.FLAGS, flag.name)
print(json.dumps([len(found), errors]))
"""


def test_every_module_can_be_imported():
    """In one new process, and without libraries of extras where these are not installed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *EXTRAS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, errors = json.loads(done.stdout.splitlines()[-1])
    assert count > 250 and not errors, errors
