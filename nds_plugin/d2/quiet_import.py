"""Detectron2, imported without the one warning that its import makes with a newer torch.

Some of its functions are decorated with ``torch.jit.script``, which torch calls deprecated: nothing that
a user of this plugin could change. What a user's own code is warned of stays as it is.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    import detectron2.modeling  # noqa: F401
