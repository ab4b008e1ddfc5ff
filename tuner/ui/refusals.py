"""Refusals in the page's language: the errors of :mod:`tuner.errors` speak English, the page may not."""

from __future__ import annotations

import re

from tuner.errors import BadInput, TunerError
from tuner.settings import KNOBS
from tuner.ui.words import WORDS

_ALLOWED_ZH: tuple[tuple[str, str], ...] = (
    (r"a multiple of (\d+) from (\d+) to (\d+) pixels", r"\2 到 \3 像素之间 \1 的倍数"),
    (r"4k\+1 from (\d+) to (\d+): (.*)", r"\1 到 \2 之间的 4k+1：\3"),
    (
        r"(-?[\d.]+) to (-?[\d.]+)(?: (?:steps|frames per second|GiB|MiB|samples|blocks|threads|clips))?",
        r"\1 到 \2",
    ),
    (r"at most (\d+) characters", r"最多 \1 个字符"),
    (r"given together with source_video", "与源视频一起给出"),
    (r"given without source_video", "不与源视频同时给出"),
    (r"given with a mask, or with a strength below 1", "同时给出蒙版，或强度小于 1"),
    (
        r"an existing MP4, MOV, WebM, MKV or AVI file with a video in it",
        "含有视频的 MP4、MOV、WebM、MKV 或 AVI 文件",
    ),
    (
        r"a clip of at least (\d+) frames at (\d+) frames per second",
        r"每秒 \2 帧时至少 \1 帧的视频",
    ),
    (r"a whole number", "整数"),
    (r"a number", "数字"),
    (r"a finite number", "有限的数字"),
    (r"text", "文字"),
    (r"this key is required", "必须填写"),
    (
        r"a PNG, JPEG, WebP, BMP or GIF picture of at most 50 million pixels",
        "不超过 5000 万像素的 PNG、JPEG、WebP、BMP 或 GIF 图片",
    ),
    (
        r"an installed model; put (.*) \((.*)\) into (.*) \(or where TUNER_MODELS says\); .*",
        r"已安装的模型；请把 \1（\2）放到 \3（或 TUNER_MODELS 指定的位置）",
    ),
    (r"a checkpoint folder, one with a model_index\.json", "含有 model_index.json 的模型文件夹"),
    (r"(.*), or the path of a checkpoint folder", r"\1，或模型文件夹的路径"),
    (r"no such key; one of (.*)", r"没有这个键；可用：\1"),
    (r"1; this file is from a newer EasyAnimate Tuner", "1；该文件来自更新版本的 EasyAnimate Tuner"),
    (r"(?:a file of )?at most (\d+) KiB", r"不超过 \1 KiB"),
    (r"TOML \((.*)\)", r"TOML（\1）"),
    (
        r"an mp4 made by EasyAnimate Tuner, or a preset file \(\.toml\)",
        "由 EasyAnimate Tuner 生成的 mp4，或预设文件（.toml）",
    ),
    (
        r"1 to 60 letters, digits, spaces and \. _ \+ - \( \), starting with a letter or digit",
        "1 到 60 个字母、汉字、数字、空格或 . _ + - ( )，以字母、汉字或数字开头",
    ),
    (r"a name that no shipped preset has", "与自带预设不同的名称"),
    (r"0 to ([\d.]+) GiB on this card", r"本机显卡上 0 到 \1 GiB"),
    (r"0 to ([\d.]+) GiB on this computer", r"本机上 0 到 \1 GiB"),
    (r"the id of a run in the history", "运行记录中的编号"),
    (r"a run that has ended; this one is \w+", "已结束的运行；此运行尚未结束"),
    (r"a run that ended early; this one is done", "提前结束的运行；此运行已完成"),
    (
        r"a run without LoRA files; tuner run --resume goes on with them",
        "未使用 LoRA 文件的运行；可用命令行 tuner run --resume 继续",
    ),
    (r"latents that were kept whole", "完整保留的潜变量"),
    (r"the one that these latents were made for", "生成这些潜变量的那个请求"),
)

_GIVEN_ZH = {
    **dict.fromkeys(("None", "'nothing'", "''"), "空值"),
    "'a picture'": "图片",
    "'alone'": "单独使用",
}


def refusal(error: TunerError, spoken: str) -> str:
    """The one line of an error as plain text in ``en`` or ``zh``.

    What this page can cause is said in Chinese; a rare reason from elsewhere stays as it is.
    """
    if spoken == "en" or not isinstance(error, BadInput):
        return str(error)
    return refused_in_chinese(str(error))


def refused_in_chinese(line: str) -> str:
    """The line of a :class:`BadInput` in Chinese; another line as it is."""
    found = re.fullmatch(r"(\S+): (.*?) is not allowed; allowed: (.*)", line)
    return f"{_field(found[1])}：不允许 {_given(found[2])}；允许：{_allowed(found[3])}" if found else line


def _field(name: str) -> str:
    if name in KNOBS:
        return KNOBS[name].title.zh
    return WORDS[name].zh if name in WORDS else name


def _given(value: str) -> str:
    return _GIVEN_ZH.get(value, value)


def _allowed(text: str) -> str:
    for pattern, chinese in _ALLOWED_ZH:
        if found := re.fullmatch(pattern, text):
            return found.expand(chinese)
    return text
