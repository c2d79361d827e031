"""For notebooks: Hessian, planes, curves and eigenvectors of a model at hand, without Snakemake, MPI or files.

The code underneath is that of the workflow, and so are the numbers. The model is never changed.
"""

from lossatlas.api.matrix import Hessian, hessian
from lossatlas.api.surfaces import curve, plane
from lossatlas.api.tracking import track
