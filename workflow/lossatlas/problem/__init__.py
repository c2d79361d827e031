"""What every framework gives: a loss over one flat parameter vector."""

from lossatlas.problem.protocol import (
    Choice,
    Evaluation,
    Hessian,
    Problem,
    Restriction,
    batchnorm_note,
    choices_of,
    with_standard_error,
)
