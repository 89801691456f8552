"""Starts two processes, each with a config of its own: `python -m tests.programs.compare_configs FOLDER`."""

import json
import pathlib
import sys

from tests import programs

config = pathlib.Path(sys.argv[1], f"{programs.process_id()}.json")
try:
    programs.join(json.loads(config.read_text()))
except ValueError as error:
    print(error)
