"""Run several scripts one after the other in one process; their command lines are lists in the environment's JOBS."""

import json
import os
import runpy
import sys

for words in json.loads(os.environ["JOBS"]):
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
