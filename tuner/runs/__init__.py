"""Many generations: a worker process, a queue, and a store of what was run."""

from tuner.runs.registry import Registry
from tuner.runs.store import RunRecord, Store, default_data_dir

__all__ = ["Registry", "RunRecord", "Store", "default_data_dir"]
