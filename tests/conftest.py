from __future__ import annotations

import tuner  # noqa: F401 - before torch: it decides how torch's threads wait
