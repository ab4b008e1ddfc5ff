"""T5's tokenizer, with the byte pieces its vocabulary may have.

mT5's SentencePiece model spells what it has no piece for in bytes. transformers 5 rebuilds that model without
the bytes, so that rare characters and emoji would all become one unknown token; here they stay apart.
"""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers.models import Unigram
from transformers import T5Tokenizer


def load_t5_tokenizer(folder: Path) -> T5Tokenizer:
    """The tokenizer in ``folder``; its ids are SentencePiece's own.

    Raises:
        OSError: ``spiece.model`` is no SentencePiece model.
    """
    try:
        pieces = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    except RuntimeError as error:
        raise OSError(str(error)) from None
    tokenizer = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    count = pieces.get_piece_size()
    if any(pieces.is_byte(index) for index in range(count)):
        vocabulary = [(pieces.id_to_piece(index), pieces.get_score(index)) for index in range(count)]
        tokenizer.backend_tokenizer.model = Unigram(vocabulary, unk_id=pieces.unk_id(), byte_fallback=True)
    return tokenizer
