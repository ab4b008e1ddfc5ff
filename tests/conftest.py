from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it: no test downloads a model
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # other tests run beside these

import tuner  # noqa: F401 - before torch: it decides how torch's threads wait
