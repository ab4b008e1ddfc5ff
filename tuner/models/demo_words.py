"""The demo's little language: what its prompts can say, in English and Chinese."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator

from tuner.settings import Text

COLOURS = (
    Text("red", "红色"),
    Text("orange", "橙色"),
    Text("yellow", "黄色"),
    Text("green", "绿色"),
    Text("blue", "蓝色"),
    Text("purple", "紫色"),
    Text("pink", "粉色"),
    Text("white", "白色"),
)
SHAPES = (
    Text("circle", "圆形"),
    Text("square", "方形"),
    Text("triangle", "三角形"),
    Text("star", "星星"),
    Text("ball", "球"),
)
MOTIONS = (
    Text("moving left", "向左移动"),
    Text("moving right", "向右移动"),
    Text("moving up", "向上移动"),
    Text("moving down", "向下移动"),
    Text("circling", "转圈"),
    Text("bouncing", "弹跳"),
    Text("growing", "变大"),
    Text("standing still", "静止不动"),
)
PLACES = (
    Text("at day", "白天"),
    Text("at night", "夜晚"),
    Text("in the sea", "海里"),
    Text("in the sky", "天空中"),
    Text("on a plain background", "纯色背景上"),
    Text("on a gradient background", "渐变背景上"),
    Text("on a textured background", "纹理背景上"),
)

_ALSO = (
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
    "the ball moves to the left, then to the right, up and down; a still picture of a small dog by the sea.",
    "good quality, high quality, clear, bright, sharp, smooth motion; bad quality, blurry, dark, noise, deformed",
    "一只小狗在海边摇头；一个大的球，两个小的方形；向左、向右、向上、向下。画面清晰，高质量，杰作，最佳品质！",
    "低质量，模糊，变形，噪点，黑暗。太阳、月亮、日落、山、水、火、树、人、车、花、猫、鸟、鱼？",
)
_PUNCTUATION = ",.!?;:'\"-()[]/&+#%…，。！？；：、（）“”"
_WORD_PIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def sentences(seed: int = 0, count: int = 2000) -> Iterator[str]:
    """``count`` prompts of the language in both languages and a few of everyday words; the same for a seed."""
    chosen = random.Random(seed)
    everything = list(itertools.product(COLOURS, SHAPES, MOTIONS, PLACES))
    for colour, shape, motion, place in chosen.choices(everything, k=count // 2):
        yield english(colour, shape, motion, place)
        yield chinese(colour, shape, motion, place)
    yield from _ALSO


def english(colour: Text, shape: Text, motion: Text, place: Text) -> str:
    """The English prompt, as ``a red ball moving right at night``."""
    article = "an" if colour.en[0] in "aeiou" else "a"
    return f"{article} {colour.en} {shape.en} {motion.en} {place.en}"


def chinese(colour: Text, shape: Text, motion: Text, place: Text) -> str:
    """The Chinese prompt: place, colour, shape, motion."""
    return f"{place.zh}一个{colour.zh}的{shape.zh}{motion.zh}"


def word_pieces() -> list[str]:
    """A WordPiece vocabulary: the language's words and characters whole, anything Latin letter by letter."""
    letters = [*string.ascii_lowercase, *string.digits]
    text = " ".join(sentences())
    for mark in _PUNCTUATION:
        text = text.replace(mark, " ")
    words = sorted({word for word in text.split() if word.isascii() and len(word) > 1})
    characters = sorted({character for character in text if not character.isascii()})
    pieces = [*_WORD_PIECE_SPECIALS, *_PUNCTUATION, *letters, *(f"##{letter}" for letter in letters), *words]
    return [*pieces, *characters]
