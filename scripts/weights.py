"""Put published weights under the data root: downloaded where there is a network, checked in any case."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.zoo import weights

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted({network for network, _ in weights.URLS}), required=True)
    parser.add_argument("--name", choices=sorted({name for _, name in weights.URLS}), required=True)
    parser.add_argument("--root", type=Path, required=True)
    parsed = parser.parse_args()
    command_line.run(lambda _world: weights.fetch(parsed.network, parsed.name, parsed.root))
