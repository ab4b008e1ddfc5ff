"""Fetch a published model from the Hugging Face hub into its cache, with progress.

A connection that breaks is taken up where it was; after a download that ended for good, the next one fetches only
the files that were not finished.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tuner.errors import BadInput, TunerError
from tuner.models.files import MODEL_INDEX, PARTS
from tuner.models.registry import ModelInfo


def available(info: ModelInfo) -> Path:
    """The model's folder; a published model that is not here is downloaded, its progress shown on stderr.

    Raises:
        BadInput: It is not here, and cannot be fetched or would not fit the disk; the message says which files,
            how large, and where to put them.
        TunerError: The download broke off; the next call fetches what is left.
    """
    if info.path is not None or info.download is None:
        return info.folder()
    from huggingface_hub import constants, snapshot_download

    repository, patterns = info.download.repository, [MODEL_INDEX, *(f"{part}/*" for part in PARTS)]
    try:
        planned = snapshot_download(repository, allow_patterns=patterns, dry_run=True)
    except Exception as error:  # noqa: BLE001 - the hub's client has errors of several libraries
        raise info.absent(f"or go online to have it fetched (now: {_reason(error)})") from None
    files = _without_pickles({file.filename: file.file_size or 0 for file in planned if file.will_download})
    _check_room(info, Path(constants.HF_HUB_CACHE), sum(files.values()))
    kept = _without_pickles({file.filename: 0 for file in planned})
    try:
        return Path(snapshot_download(repository, allow_patterns=list(kept)))
    except Exception as error:  # noqa: BLE001 - likewise
        reason = f"the download broke off ({_reason(error)})"
        raise TunerError(f"model {info.name}: {reason}; run it again, finished files are kept") from None


def _without_pickles(files: dict[str, int]) -> dict[str, int]:
    """``files`` without those pickles that have safetensors beside them."""
    safe = {Path(name).parent for name in files if name.endswith(".safetensors")}
    return {
        name: size for name, size in files.items() if not (name.endswith(".bin") and Path(name).parent in safe)
    }


def _check_room(info: ModelInfo, cache: Path, needed_bytes: int) -> None:
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise BadInput(
            f"model {info.name}",
            f"{free_bytes / 1e9:.1f} GB free in {cache}",
            f"{needed_bytes / 1e9:.1f} GB for its files; make room, or let HF_HOME name a larger disk",
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
