"""Why a figure is `nan`, in the words that a result carries."""

from numpy.typing import ArrayLike


def why_undefined(*, labels: ArrayLike | None = None, errors: ArrayLike | None = None) -> str:
    """The reason why a metric on these labels or these errors (n,) is undefined, or "" where it is defined.

    `labels`: "no anomalous image" or "no normal image" (image_auroc, image_ap, image_f1_max, fpr, fnr, ...).
    `errors`: "no failures" (every selective figure) or "all wrong" (failure_auroc alone).
    The words hold for pixels as well, with `labels` the pooled masks.
    """
    import numpy as np

    for values, none, every in (
        (labels, "no anomalous image", "no normal image"),
        (errors, "no failures", "all wrong"),
    ):
        if values is not None:
            array = np.asarray(values)
            if not array.any():
                return none
            if array.all():
                return every
    return ""
