"""Train a small network by Keras, and record it."""

import keras
import net
from lossatlas import KerasRecorder


def main() -> None:
    """Train for one pass over the images."""
    keras.utils.set_random_seed(0)
    model = net.build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss)
    inputs, targets = net.data()["train"]
    recorder = KerasRecorder("recorded/trajectory.zarr")
    model.fit(inputs.transpose(0, 2, 3, 1), targets, batch_size=50, callbacks=[recorder], verbose=2)


if __name__ == "__main__":
    main()
