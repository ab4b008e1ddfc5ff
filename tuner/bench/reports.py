"""Benchmark results for a person: tables of what was measured, beside what was possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.bench.table import copies_in_words, in_words, rate, table
from tuner.settings import Text

_NOT_RUN = "-"

_COLUMNS = (
    Text("strategy", "策略"),
    Text("peak allocated", "峰值已分配"),
    Text("peak reserved", "峰值已保留"),
    Text("fragmentation", "碎片率"),
    Text("seconds", "秒"),
    Text("s/frame", "秒/帧"),
    Text("to device", "传到设备"),
    Text("to host", "传回主机"),
    Text("to device per step", "每步传到设备"),
    Text("largest difference", "最大差异"),
)
_AGAINST = Text(
    "combined takes {peak_allocated_bytes:.0%} of stock's peak, {seconds:.0%} of its time and "
    "{transfers_per_step_bytes:.0%} of its transfers per step.",
    "combined 的峰值是 stock 的 {peak_allocated_bytes:.0%}，时间是 {seconds:.0%}，"
    "每步传输是 {transfers_per_step_bytes:.0%}。",
)
_WAY_COLUMNS = (
    Text("way", "方式"),
    Text("seconds", "秒"),
    Text("time / stock", "时间/原始"),
    Text("FLOP/s", "FLOP/s"),
    Text("of possible", "占可达"),
    Text("peak allocated", "峰值已分配"),
    Text("to device per call", "每次传到设备"),
    Text("to host per call", "每次传回主机"),
    Text("moved", "搬运速率"),
    Text("largest difference", "最大差异"),
)
_POSSIBLE = Text(
    "Possible here, each measured alone: {flops} in {precision} (the faster of a matrix product and a "
    "convolution), {up} from host to device, {memory} within the device (read and written).",
    "本机可达（单独测量）：{precision} {flops}（矩阵乘与卷积中较快者），"
    "主机到设备 {up}，设备内（读加写）{memory}。",
)
_GPU_COLUMNS = (
    Text("part", "部分"),
    Text("size", "尺寸"),
    Text("way", "方式"),
    Text("seconds", "秒"),
    Text("time / stock", "时间/原始"),
    Text("of possible FLOP/s", "占可达 FLOP/s"),
    Text("peak allocated", "峰值已分配"),
    Text("fragmentation", "碎片率"),
    Text("to device per call", "每次传到设备"),
    Text("difference", "差异"),
    Text("forecast: memory, time", "预测：内存、时间"),
)
_BAR_COLUMNS = (Text("bar", "目标"), Text("worst", "最差"), Text("must be", "要求"), Text("reached", "达到"))
_PARTS = {"denoise": Text("denoising step", "去噪一步"), "decode": Text("decode", "解码")}
_STATUS = {
    "out of memory": Text("out of memory", "内存不足"),
    "not reached": Text("not reached", "未测到"),
}
_BARS = {
    text.en: text
    for text in (
        Text("difference in float32, relative", "float32 相对差异"),
        Text("decoded clip against stock, dB", "解码视频与原始相比，dB"),
        Text("resident step, time / stock", "常驻时一步，时间/原始"),
        Text("streamed step, time / resident", "流式一步，时间/常驻"),
        Text("bytes to the device per resident step", "常驻时每步传到设备的字节"),
        Text("decode, times faster than stock", "解码比原始快的倍数"),
        Text("fragmentation", "碎片率"),
        Text("bytes left over", "遗留字节"),
        Text("bytes that the meter missed", "测量漏计的字节"),
    )
}
_MET, _MISSED = Text("yes", "是"), Text("**no**", "**否**")
_LIMITED = Text(", held to {limit}", "，限制为 {limit}")
_ON_CARD = Text(
    "{model}, invented weights, {precision}, on {name}{limit}, driver {driver}, CUDA {cuda}, PyTorch {torch}, "
    "diffusers {diffusers}, {date}: `{command}`",
    "{model}，随机权重，{precision}；{name}{limit}，驱动 {driver}，CUDA {cuda}，PyTorch {torch}，"
    "diffusers {diffusers}，{date}：`{command}`",
)
_STRATEGY, _SECONDS_OF = Text("strategy", "策略"), Text("seconds", "秒")
_LANGUAGES = ("en", "zh")


def strategies_tables(result: Mapping[str, Any], language: str = "en") -> str:
    """What ``tuner bench strategies`` measured: one table of costs, one of seconds per stage.

    Args:
        result: Its JSON.
        language: ``en`` or ``zh``.
    """
    column = _LANGUAGES.index(language)
    rows = result["rows"]
    stages = list(dict.fromkeys(stage["name"] for row in rows for stage in row.get("stages", [])))
    costs = table([title[column] for title in _COLUMNS], [_costs(row) for row in rows])
    times = table(
        [_STRATEGY[column], *(f"{stage}, {_SECONDS_OF[column]}" for stage in stages)],
        [[row["name"], *_stage_seconds(row, stages)] for row in rows],
    )
    against = result["combined_of_stock"]
    if against is None:
        return f"{costs}\n{times}"
    said = _AGAINST[column].format(**against)
    return f"{costs}\n{times}\n{said}\n"


def ways_report(result: Mapping[str, Any], language: str = "en") -> str:
    """What ``tuner bench transformer`` or ``vae`` measured, beside what is possible.

    Args:
        result: Its JSON.
        language: ``en`` or ``zh``.
    """
    column = _LANGUAGES.index(language)
    ways = table([title[column] for title in _WAY_COLUMNS], [_way(row) for row in result["rows"]])
    return "\n".join([ways, possible(result, language), *result["left_out"], ""])


def gpu_report(result: Mapping[str, Any], language: str = "en") -> str:
    """What ``tuner bench gpu`` measured: the card, each part in a table, and the bars.

    Args:
        result: Its JSON.
        language: ``en`` or ``zh``.
    """
    column = _LANGUAGES.index(language)
    on = _ON_CARD[column].format(
        **{**result["card"], **result["versions"], **result, "limit": _limit(result, column)}
    )
    rows = [_gpu_row(row, column) for row in result["rows"] if row["part"] in _PARTS]
    bars = [_bar(bar, column) for bar in result["bars"]]
    measured = table([title[column] for title in _GPU_COLUMNS], rows)
    judged = table([title[column] for title in _BAR_COLUMNS], bars)
    return "\n".join([on, "", possible(result, language), "", measured, judged])


def possible(result: Mapping[str, Any], language: str) -> str:
    """A line: what the machine of a result can do at best."""
    rates = result["attainable"]
    return _POSSIBLE[_LANGUAGES.index(language)].format(
        flops=rate(rates["flops_per_second"], "FLOP"),
        precision=result["precision"],
        up=rate(rates["h2d_pinned_bytes_per_second"], "B"),
        memory=rate(rates["device_bytes_per_second"], "B"),
    )


def _way(row: Mapping[str, Any]) -> list[str]:
    if row["status"] != "done":
        return [f"{row['name']} ({row['status']})", *[_NOT_RUN] * (len(_WAY_COLUMNS) - 1)]
    moved, far = row["transfers"], row["difference"]
    return [
        row["name"],
        f"{row['seconds']:.3f}",
        _NOT_RUN if row["ratio"] is None else f"{row['ratio']:.2f}",
        rate(row["flops_per_second"], "FLOP"),
        f"{row['of_attainable_flops']:.0%}",
        in_words(row["peak_allocated_bytes"]),
        copies_in_words(moved["h2d_count"], moved["h2d_bytes"]),
        copies_in_words(moved["d2h_count"], moved["d2h_bytes"]),
        rate(row["moved_bytes_per_second"], "B") if row["moved_bytes_per_second"] else "0",
        _NOT_RUN if far is None else f"{far['largest']:.1e}",
    ]


def _gpu_row(row: Mapping[str, Any], column: int) -> list[str]:
    part, size = _PARTS[row["part"]][column], f"{row['width']}x{row['height']}x{row['frames']}"
    if row["status"] != "done":
        status = _STATUS[row["status"]][column]
        return [part, size, f"{row['way']} ({status})", *[_NOT_RUN] * (len(_GPU_COLUMNS) - 3)]
    return [part, size, *_figures(row)]


def _figures(row: Mapping[str, Any]) -> list[str]:
    moved, far = row["transfers"], row["difference"] or {}
    loudness, relative = far.get("psnr_db"), far.get("relative")
    apart = (
        f"{loudness:.1f} dB" if loudness is not None else f"{relative:.1e}" if relative is not None else _NOT_RUN
    )
    return [
        row["way"],
        f"{row['seconds']:.3f}",
        _NOT_RUN if row["ratio"] is None else f"{row['ratio']:.2f}",
        f"{row['of_attainable_flops']:.0%}",
        in_words(row["peak_allocated_bytes"]),
        f"{row['fragmentation']:.1%}",
        copies_in_words(moved["h2d_count"], moved["h2d_bytes"]),
        apart,
        _off(row.get("forecast")),
    ]


def _off(foreseen: Mapping[str, Any] | None) -> str:
    """How far the forecast of a row was off: peak allocated, then seconds."""
    if not foreseen:
        return _NOT_RUN
    errors = (foreseen["error"][name] for name in ("peak_allocated_bytes", "seconds"))
    return ", ".join(_NOT_RUN if error is None else f"{error:+.1%}" for error in errors)


def _bar(bar: Mapping[str, Any], column: int) -> list[str]:
    sign = ">=" if bar["at_least"] else "<="
    value = _NOT_RUN if bar["value"] is None else f"{bar['value']:.3g}"
    return [_BARS[bar["name"]][column], value, f"{sign} {bar['bar']:g}", (_MET if bar["met"] else _MISSED)[column]]


def _limit(result: Mapping[str, Any], column: int) -> str:
    limit = result["card"]["limit_bytes"]
    return _LIMITED[column].format(limit=in_words(limit)) if limit else ""


def _costs(row: Mapping[str, Any]) -> list[str]:
    if row["status"] != "done":
        return [f"{row['name']} ({row['status']})", *[_NOT_RUN] * (len(_COLUMNS) - 1)]
    moved, step = row["transfers"], row["transfers_per_step"]
    difference = row["largest_difference"]
    return [
        row["name"],
        in_words(row["peak_allocated_bytes"]),
        in_words(row["peak_reserved_bytes"]),
        f"{row['fragmentation']:.1%}",
        f"{row['seconds']:.2f}",
        f"{row['seconds_per_frame']:.3f}",
        copies_in_words(moved["h2d_count"], moved["h2d_bytes"]),
        copies_in_words(moved["d2h_count"], moved["d2h_bytes"]),
        copies_in_words(step["h2d_count"], step["h2d_bytes"]),
        _NOT_RUN if difference is None else f"{difference:.1e}",
    ]


def _stage_seconds(row: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    seconds = {stage["name"]: f"{stage['seconds']:.2f}" for stage in row.get("stages", [])}
    return [seconds.get(stage, _NOT_RUN) for stage in stages]
