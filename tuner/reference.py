"""The parts of the documentation that are generated: ``python -m tuner.reference`` (or ``make docs``) writes them.

Between two marks, README.md and README.zh-CN.md hold the knobs as :mod:`tuner.settings` has them, and what
was measured as ``assets/benchmarks`` has it. A test fails when either is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from tuner.bench.reports import gpu_report, strategies_tables
from tuner.demo.evaluate import table
from tuner.forecast.table import Cell, markdown
from tuner.settings import KNOBS, Knob, Settings, Text
from tuner.ui.words import UNITS

Language = Literal["en", "zh"]

ROOT = Path(__file__).resolve().parents[1]
READMES: dict[Path, Language] = {ROOT / "README.md": "en", ROOT / "README.zh-CN.md": "zh"}
BENCHMARKS = ROOT / "assets" / "benchmarks"
DEMO = ROOT / "assets" / "demo"

_HEADER = Text(
    "| knob | default | allowed | lossless | what it does |", "| 旋钮 | 默认值 | 允许的值 | 无损 | 作用 |"
)
_YES, _NO, _TO = Text("yes", "是"), Text("**no**", "**否**"), Text("to", "至")
_ON = Text(
    "{model}, {width}x{height}, {frames} frames, {steps} steps, {precision}, from a start image, medians of "
    "{repeats} runs on {cpu} with {cores} cores, PyTorch {torch}, {date}, while other programs used "
    "{other_programs_cores} cores: `{command}`",
    "{model}，{width}x{height}，{frames} 帧，{steps} 步，{precision}，带起始图；"
    "{cpu}，{cores} 核，PyTorch {torch}，{repeats} 次运行取中位数，{date}，"
    "其间其他程序占用 {other_programs_cores} 核：`{command}`",
)
_METERING = Text(
    "Metering itself changed the run time by {counted:+.1%} (device memory counted) and {told:+.1%} (events told "
    "too): medians of {repeats} rounds, while other programs used {other_programs_cores} cores, `{command}`.",
    "测量本身对运行时间的影响：只统计设备内存 {counted:+.1%}，再加上发送事件 {told:+.1%}；"
    "{repeats} 轮取中位数，其间其他程序占用 {other_programs_cores} 核，`{command}`。",
)

_NO_GPU = Text(
    "| card | measured |\n| --- | --- |\n| any | not yet measured on a GPU |",
    "| 显卡 | 测量 |\n| --- | --- |\n| 任意 | 尚未在 GPU 上测量 |",
)


def knob_table(language: Language) -> str:
    """Every knob: title, name, default, what is allowed, whether it is lossless, what it does."""
    lines = [_in(language, _HEADER), "| --- | --- | --- | --- | --- |"]
    for name, knob in KNOBS.items():
        default = getattr(Settings(), name)
        shown = f"{default:g}" if isinstance(default, float) else f"{default}"
        lossless = _in(language, _YES if knob.lossless else _NO)
        title = _in(language, knob.title)
        allowed = _allowed(knob, language)
        lines.append(f"| {title} `{name}` | `{shown}` | {allowed} | {lossless} | {_in(language, knob.help)} |")
    return "\n".join(lines) + "\n"


def measured_tables(language: Language) -> str:
    """What the committed benchmark results say."""
    strategies = _result("strategies-demo-cpu.json")
    metering = _result("metering-demo-cpu.json")
    facts = {**strategies, **strategies["request"], **strategies["machine"], **strategies["versions"]}
    counted, told = metering["median_ratio"].values()
    cost = _in(language, _METERING).format(**{**metering, "counted": counted - 1, "told": told - 1})
    on = _in(language, _ON).format(**{**facts, "model": "demo"})
    return f"{on}\n\n{strategies_tables(strategies, language)}\n{cost}\n"


def gpu_tables(language: Language) -> str:
    """What the committed results of ``tuner bench gpu`` say, or that there is none."""
    results = [_result(file.name) for file in sorted(BENCHMARKS.glob("gpu-*.json"))]
    reports = [gpu_report(result, language) for result in results]
    return "\n".join(reports) if reports else f"{_in(language, _NO_GPU)}\n"


_FITS = Text(
    "Minutes for 25 steps from a start image in bfloat16, forecast on an RTX 4060 Ti (8 and 16 GB), an RTX 3060 "
    "(12), an A10 (24) and an A100 (40 and 80): diffusers' own forwards with everything resident / tuned, "
    "lossless; ✗ does not fit. Before the dot, where EasyAnimate's own table says something: M runs with parts "
    "moved to the card one after the other, Q so and in 8 bits (lossy), S layer by layer (slow), X not at all.",
    "从起始图出发、bfloat16、25 步所需的分钟数（预测；8 与 16 GB 按 RTX 4060 Ti，12 按 RTX 3060，"
    "24 按 A10，40 与 80 按 A100）：diffusers 自带前向且全部常驻 / 本项目（无损）；✗ 表示放不下。"
    "圆点之前是 EasyAnimate 自己的表：M 各部分轮流搬到显卡，Q 同时改用 8 位（有损），"
    "S 逐层搬运（慢），X 不能运行。",
)


_EVALUATED = Text(
    "{prompts} prompts that training never saw, half of them English, half Chinese; 128x128, {frames} frames, "
    "{steps} steps, guidance {guidance:g}, judged by the pixels; {cpu}, {cores} cores, PyTorch {torch}, {date}, "
    "`python -m tuner.demo.evaluate`:",
    "训练中从未见过的 {prompts} 条提示词，中英文各半；128x128，{frames} 帧，{steps} 步，引导系数 {guidance:g}，"
    "按像素评判；{cpu}，{cores} 核，PyTorch {torch}，{date}，`python -m tuner.demo.evaluate`：",
)


def demo_table(language: Language) -> str:
    """How well the shipped demo does."""
    result = json.loads((DEMO / "evaluation.json").read_text(encoding="utf-8"))
    on = _in(language, _EVALUATED).format(**result, **result["machine"], **result["versions"])
    return f"{on}\n\n{table(result['rows'], language)}"


def fits_tables(language: Language) -> str:
    """What fits where, as ``tuner forecast table --out assets/benchmarks/fits.json`` found it."""
    tables = {
        model: [Cell(tuple(cell["size"]), *list(cell.values())[1:]) for cell in cells]
        for model, cells in _result("fits.json").items()
    }
    parts = [
        _in(language, _FITS),
        *(markdown(model, cells, beside_published=True) for model, cells in tables.items()),
    ]
    return "\n\n".join(parts) + "\n"


GENERATED: dict[str, Callable[[Language], str]] = {
    "knobs": knob_table,
    "measured": measured_tables,
    "gpu": gpu_tables,
    "fits": fits_tables,
    "demo": demo_table,
}


def filled(text: str, language: Language) -> str:
    """``text`` of a README with every generated part as it should be.

    Raises:
        ValueError: The marks of a part are missing.
    """
    for name, make in GENERATED.items():
        begin, end = f"<!-- {name}: generated by `make docs` -->\n", f"<!-- /{name} -->"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise ValueError(f"no part between {begin.strip()!r} and {end!r}")
        text = f"{before}{begin}\n{make(language)}\n{end}{after}"
    return text


def main() -> None:
    """Bring both READMEs up to date."""
    for path, language in READMES.items():
        path.write_text(filled(path.read_text(encoding="utf-8"), language), encoding="utf-8", newline="\n")


def _in(language: Language, text: Text) -> str:
    return text.en if language == "en" else text.zh


def _allowed(knob: Knob, language: Language) -> str:
    unit = _in(language, UNITS[knob.unit])
    if knob.choices:
        values = ", ".join(f"`{choice}`" for choice in knob.choices)
    else:
        values = f"{knob.minimum:g} {_in(language, _TO)} {knob.maximum:g}"
    return f"{values} {unit}".strip()


def _result(name: str) -> Mapping[str, Any]:
    return json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
