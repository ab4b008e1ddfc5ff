"""What runs say of themselves, in Chinese: the engine and the workers speak English."""

from __future__ import annotations

import re
from collections.abc import Callable

from tuner.settings import KNOBS
from tuner.ui.refusals import refused_in_chinese
from tuner.ui.words import WORDS

_LINES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"out of memory in stage ([a-z ]+)(?:: ([^;]*))?; (.*)",
        lambda found: f"“{_stage(found[1])}”阶段内存不足{_figures(found[2])}；{_advice(found[3])}",
    ),
    (r"the host ran out of memory", lambda _: "主机内存不足"),
    (r"resumed after step (\d+) of (\d+)", lambda found: f"从第 {found[1]} 步（共 {found[2]} 步）之后继续"),
    (r"resumed with all (\d+) steps done", lambda found: f"全部 {found[1]} 步已完成，从解码继续"),
    (r"the latents are not kept: (.*)", lambda found: f"未保留潜变量：{found[1]}"),
    (
        r"prompt: (\d+) tokens, of which (\w+) reads the first (\d+)",
        lambda found: f"提示词共 {found[1]} 个词元，{found[2]} 只读取前 {found[3]} 个",
    ),
    (r"cancelled before it began", lambda _: "开始前已取消"),
    (r"the server was stopped", lambda _: "服务器已停止"),
    (r"the program that ran it ended", lambda _: "运行它的程序已结束"),
    (
        r"the worker process was ended by (\w+)(; the system may have run out of memory)?",
        lambda found: f"工作进程被 {found[1]} 终止{'；系统可能内存不足' if found[2] else ''}",
    ),
    (
        r"the worker process ended unexpectedly \(exit code (.*)\)",
        lambda found: f"工作进程意外结束（退出码 {found[1]}）",
    ),
)

_ADVICE: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"try (.*)", lambda found: f"可尝试：{settings_in_chinese(found[1])}"),
    (
        r"these are the smallest settings: make a smaller clip, such as (\w+)",
        lambda found: f"已是最省内存的设置：请缩小视频，例如 {found[1]}",
    ),
    (
        r"no setting(?: lowers this| and no size is smaller): close other programs or take a smaller model",
        lambda _: "没有更省内存的设置：请关闭其他程序或换用更小的模型",
    ),
)


def in_chinese(message: str) -> str:
    """A run's message in Chinese; one from elsewhere stays as it is."""
    return _first(_LINES, message) or refused_in_chinese(message)


def settings_in_chinese(assignments: str) -> str:
    """``chunk_size 2`` with the knobs' Chinese names."""
    named = (part.partition(" ") for part in assignments.split(", "))
    return "，".join(f"{KNOBS[name].title.zh} {value}" if name in KNOBS else name for name, _, value in named)


def _first(lines: tuple[tuple[str, Callable[[re.Match[str]], str]], ...], text: str) -> str:
    for pattern, chinese in lines:
        if found := re.fullmatch(pattern, text):
            return chinese(found)
    return ""


def _stage(name: str) -> str:
    word = WORDS.get(f"stage_{name.replace(' ', '_')}")
    return word.zh if word else name


def _figures(text: str | None) -> str:
    if not text:
        return ""
    asked = re.sub(r"([\d.]+ \w+) asked for", r"需要 \1", text)
    return "：" + re.sub(r"([\d.]+ \w+) free", r"可用 \1", asked).replace(", ", "，")


def _advice(text: str) -> str:
    return _first(_ADVICE, text) or text
