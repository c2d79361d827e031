"""Put on PYTHONPATH: published weights of MobileNet-V2 come from the URL that OTHER_WEIGHTS names."""

import os

from lossatlas.zoo import weights

weights.URLS["mobilenet-v2", "imagenet1k-v1"] = os.environ["OTHER_WEIGHTS"]
