"""Put a dataset under the data root: downloaded where there is a network, unpacked and checked in any case."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
from pathlib import Path

from lossatlas.data import downloaded
from lossatlas.drivers import command_line

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(downloaded.FILES), required=True)
    parser.add_argument("--root", type=Path, required=True)
    parsed = parser.parse_args()
    command_line.run(lambda _world: downloaded.fetch(parsed.dataset, parsed.root))
