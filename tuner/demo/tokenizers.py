"""The demo's two vocabularies: the words of its language whole, everything else letter by letter or in bytes.

And prompts in their tokens.
"""

from __future__ import annotations

import io
import itertools
import string
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import sentencepiece
from torch import Tensor

from tuner.demo.prompts import write_prompt
from tuner.demo.scene import random_scene
from tuner.demo.words import COLOURS, FILLERS, MOTIONS, SETTINGS, SHAPES, STYLES, UNKNOWN, Words

_PIECES_T5 = 640
_ALSO = (
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
    "the ball moves to the left, then to the right, up and down; a still picture of a small dog by the sea.",
    "good quality, high quality, clear, bright, sharp, smooth motion; bad quality, blurry, dark, noise, deformed",
    "一只小狗在海边摇头；一个大的球，两个小的方形；向左、向右、向上、向下。画面清晰，高质量，杰作，最佳品质！",
    "低质量，模糊，变形，噪点，黑暗。太阳、月亮、日落、山、水、火、树、人、车、花、猫、鸟、鱼？",
)
_PUNCTUATION = ",.!?;:'\"-()[]/&+#%…，。！？；：、（）“”"
_WORD_PIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def sentences(count: int = 4000) -> Iterator[str]:
    """``count`` prompts in both languages, every word of the language, and a few everyday sentences."""
    for seed in range(count // 2):
        scene = random_scene(seed)
        yield write_prompt(scene, "en", seed).text
        yield write_prompt(scene, "zh", seed).text
    yield from _every_word()
    yield from _ALSO


def word_pieces() -> list[str]:
    """A WordPiece vocabulary: the language's words and characters whole, anything Latin letter by letter."""
    letters = [*string.ascii_lowercase, *string.digits]
    text = " ".join([*_every_word(), *_ALSO]).lower()
    for mark in _PUNCTUATION:
        text = text.replace(mark, " ")
    words = sorted({word for word in text.split() if word.isascii() and len(word) > 1})
    characters = sorted({character for character in text if not character.isascii()})
    pieces = [*_WORD_PIECE_SPECIALS, *_PUNCTUATION, *letters, *(f"##{letter}" for letter in letters), *words]
    return [*pieces, *characters]


def sentence_pieces() -> tuple[int, bytes]:
    """Number of pieces, and the SentencePiece model: the language in pieces, all else in bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(),
        model_writer=model,
        model_type="unigram",
        vocab_size=_PIECES_T5,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        minloglevel=2,
    )
    content = model.getvalue()
    return sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size(), content


class Tokens:
    """Prompts as both encoders take them, from any thread.

    Args:
        tokenizers: BERT's and T5's.
    """

    def __init__(self, tokenizers: Sequence[Any]) -> None:
        self._tokenizers, self._lock = tokenizers, Lock()  # a fast tokenizer refuses a second thread

    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids, each padded to its model's length: ``[B, L]`` and ``[B, L2]``."""
        with self._lock:
            bert, t5 = (
                tokenizer(
                    prompts,
                    padding="max_length",
                    max_length=tokenizer.model_max_length,
                    truncation=True,
                    return_tensors="pt",
                ).input_ids
                for tokenizer in self._tokenizers
            )
        return bert, t5


def _every_word() -> Iterator[str]:
    tables = (COLOURS, SHAPES, MOTIONS, SETTINGS, STYLES)
    groups: Iterator[Words] = itertools.chain(*(table.values() for table in tables), (FILLERS, UNKNOWN))
    for group in groups:
        yield from group.en
        yield from group.zh
    yield "and next to is a an 一个 和 还有"
