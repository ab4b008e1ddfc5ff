from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it: no test downloads a model

import tuner  # noqa: F401 - before torch: it decides how torch's threads wait
