"""Compute Hessian spectra along training, by MPI ranks that share one queue."""

from lossatlas import curvature, spectra

if __name__ == "__main__":
    curvature.run(__doc__, "spectra", spectra)
