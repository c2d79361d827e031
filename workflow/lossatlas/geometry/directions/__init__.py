"""Directions in parameter space: made raw, then normalised as a separate, recorded step."""

from lossatlas.geometry.directions.direction_set import (
    DirectionSet,
    check_independent,
    complete,
    make_directions,
    orthogonalize,
    read_axes,
    read_directions,
)
