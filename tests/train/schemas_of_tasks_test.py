"""What a run needs is imported with the tasks: its config may come from a file."""

import subprocess
import sys

from tests.programs import ROOT

PROGRAM = """
from softvq_jax.config import schemas
from softvq_jax.train.tasks import TASKS
print(TASKS.keys() - schemas._SCHEMAS.keys())
"""


def test_tasks_bring_the_schemas_of_their_configs():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "set()\n"
