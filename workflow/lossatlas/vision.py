"""torchvision, also beside a CPU build of torch whose operators its compiled part was not built for.

There the compiled part does not load, and importing torchvision fails because it describes two operators
that nobody declared. We use its datasets and MobileNet-V2, which are pure Python, so declaring the two is enough. It
happens only after an import has failed for that reason.
"""

import sys
from functools import cache
from types import ModuleType

_declarations: list = []  # operator declarations last as long as the objects that made them


@cache
def torchvision() -> ModuleType:
    """Import and return torchvision."""
    try:
        import torchvision
    except RuntimeError as error:
        if not mended(error):
            raise
        import torchvision
    return torchvision


def mended(error: BaseException) -> bool:
    """Return whether an import failed for torchvision's operators, which it will find from now on.

    Others import torchvision, too (transformers, Lightning), and pass its error on as the cause of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and "torchvision::" in str(cause):
            _declare_missing_operators()
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _declare_missing_operators() -> None:
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.append(library)
