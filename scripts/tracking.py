"""Follow Hessian eigenvectors along training, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import hessian_job, tracking

if __name__ == "__main__":
    hessian_job.run(__doc__, "tracking", tracking, lambda _args, trajectory, _others: trajectory)
