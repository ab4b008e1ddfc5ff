"""What a generation will cost: the engine itself, run on tensors that have shapes and no bytes.

The room can be called: ``tuner.forecast(request, settings, model=, gpu=)`` is
:func:`tuner.forecast.forecast.forecast`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from tuner.forecast.forecast import forecast

        return forecast(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
