"""Follow Hessian eigenvectors along training, by MPI ranks that share one queue."""

from lossatlas import curvature, tracking

if __name__ == "__main__":
    curvature.run(__doc__, "tracking", tracking)
