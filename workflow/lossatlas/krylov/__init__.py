"""Lanczos, quadrature and eigenpairs of a symmetric operator v -> Hv. Nothing here knows a network."""

from lossatlas.krylov.eigenpairs import Eigenpairs, eigenpairs
from lossatlas.krylov.interior import NearestPairs, nearest_eigenpairs
from lossatlas.krylov.lanczos import Tridiagonal, lanczos
from lossatlas.krylov.operator import SymmetricOperator
from lossatlas.krylov.probes import probe_vectors
from lossatlas.krylov.quadrature import Accuracy, Spectrum, quadrature_runs
