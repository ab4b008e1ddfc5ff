"""Every word of the page in English and Chinese.

Gradio translates the labels of its own widgets from :func:`translations`. Markup that this project writes
itself holds both languages (:func:`both`) and the style sheet shows the one the page speaks, so that a
change of language needs no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import gradio as gr

from tuner.settings import KNOBS, Text

PREFIX = "et_"
"""Every key carries it: Gradio translates any string that equals a key, a choice of a menu too."""

WORDS: dict[str, Text] = {
    "language": Text("en", "zh"),
    "tagline": Text("memory × time", "显存 × 时间"),
    "model": Text("Model", "模型"),
    "preset": Text("Preset", "预设"),
    "advanced": Text("Advanced", "高级"),
    "generate": Text("Generate", "开始生成"),
    "cancel": Text("Cancel", "取消"),
    "prompt": Text("Prompt", "提示词"),
    "first_prompt": Text("a yellow star rising at night", "夜空中一颗黄色的星星升起"),
    "prompt_hint": Text("What should the clip show?", "视频里要有什么？"),
    "negative_prompt": Text("Negative prompt", "反向提示词"),
    "negative_hint": Text("What it should not show", "不希望出现的内容"),
    "start_image": Text("Start image", "起始图片"),
    "end_image": Text("End image", "结束图片"),
    "source_clip": Text("Source clip", "源视频"),
    "source_help": Text(
        "The clip is made anew where the mask is white, or everywhere without a mask. Strength says how much of "
        "it is noised away; 1 keeps only what the mask leaves.",
        "蒙版白色处重新生成；没有蒙版则整段重新生成。强度决定原视频被噪声覆盖的程度；1 只保留蒙版之外的部分。",
    ),
    "source_video": Text("Clip to change", "要修改的视频"),
    "mask": Text("Mask", "蒙版"),
    "strength": Text("Strength", "强度"),
    "samples": Text("Sample start images", "示例起始图片"),
    "width": Text("Width", "宽度"),
    "height": Text("Height", "高度"),
    "frames": Text("Frames", "帧数"),
    "fps": Text("Frames/s", "帧率"),
    "steps": Text("Steps", "步数"),
    "guidance": Text("Guidance", "引导强度"),
    "scheduler": Text("Scheduler", "采样器"),
    "seed": Text("Seed", "随机种子"),
    "num_clips": Text("Clips", "视频数"),
    "dice": Text("New seed", "换一个种子"),
    "scheduler_default": Text("model's own", "模型默认"),
    "runs": Text("Runs", "运行记录"),
    "presets": Text("Presets", "预设管理"),
    "all": Text("all", "全部"),
    "not_installed": Text("not installed", "未安装"),
    "model_missing": Text(
        "This model is not installed: its settings can be edited and saved here, but not run.",
        "该模型未安装：可以在此编辑并保存设置，但不能运行。",
    ),
    "note_cpu_attention": Text(
        "On a CPU: native, _native_flash or _native_math. The others need a card.",
        "CPU 上可用 native、_native_flash 或 _native_math，其余需要显卡。",
    ),
    "note_cpu_prefetch": Text(
        "Not used here: on a CPU a copy is immediate, nothing can run ahead of it.",
        "此处不起作用：CPU 上的拷贝立即完成，没有可提前的内容。",
    ),
    "note_cpu_precision": Text(
        "auto is float32 on this CPU; bfloat16 and float16 halve the memory here but run slower.",
        "在本机 CPU 上 auto 为 float32；bfloat16 和 float16 内存减半但更慢。",
    ),
    "note_step_cache_off": Text(
        "Not used while the step cache is off.",
        "步缓存关闭时不起作用。",
    ),
    "note_stock": Text(
        "Not used: the stock engine ignores this knob.",
        "不起作用：stock 引擎忽略此旋钮。",
    ),
    "cache_capacity_mib": Text("Cache capacity · MiB", "缓存容量 · MiB"),
    "resume": Text("Resume", "继续"),
    "resume_smaller": Text("Resume with smaller settings", "用更省内存的设置继续"),
    "retry_smaller": Text("Try again with smaller settings", "用更省内存的设置重试"),
    "resume_from": Text("from step {done} of {steps}", "从第 {done} 步（共 {steps} 步）起"),
    "resume_decode": Text("from decoding: all {steps} steps are done", "从解码起：全部 {steps} 步已完成"),
    # tiles
    "status": Text("Status", "状态"),
    "peak": Text("Peak memory", "显存峰值"),
    "total_time": Text("Total time", "总用时"),
    "step_time": Text("Per step", "每步"),
    "transfers": Text("Transfers", "传输"),
    "cache_hits": Text("Cache hits", "缓存命中"),
    "fragmentation": Text("Fragmentation", "碎片率"),
    "forecast_error": Text("Forecast error", "预测误差"),
    "off_memory": Text("memory", "显存"),
    "off_time": Text("time", "用时"),
    "was_forecast": Text("forecast", "预测"),
    "now": Text("now", "当前"),
    "of": Text("of", "共"),
    "left": Text("left in this stage", "本阶段剩余"),
    "step": Text("step", "步"),
    "steps_unit": Text("steps", "步"),
    "frames_unit": Text("frames", "帧"),
    "frame": Text("frame", "帧"),
    "first": Text("first", "首步"),
    "weights": Text("weights", "权重"),
    "features": Text("features", "特征"),
    "activations": Text("activations", "激活"),
    "workspace": Text("workspace", "工作区"),
    # forecast
    "forecast": Text("Forecast", "预测"),
    "forecast_wait": Text("Working out what this will cost …", "正在计算所需资源……"),
    "simulated": Text("simulated", "模拟"),
    "simulated_help": Text(
        "Not this machine's card: what a run would cost there. Generate runs here.",
        "不是本机显卡：此处为在该卡上的预计开销。“开始生成”仍在本机运行。",
    ),
    "fit": Text("Fit to this card", "适配此卡"),
    "a_step": Text(" per step", " 每步"),
    "moved": Text("moved", "传输"),
    "learned_one": Text("times corrected by 1 run on this card", "时间已按本卡 1 次运行校正"),
    "learned": Text("times corrected by {runs} runs on this card", "时间已按本卡 {runs} 次运行校正"),
    "fits": Text("✓ fits, {spare} of {limit} to spare", "✓ 放得下，{limit} 中还余 {spare}"),
    "fits_tightly": Text("! fits, but only just: {spare} to spare", "! 勉强放得下：只余 {spare}"),
    "does_not_fit": Text("✕ does not fit: {over} more than {limit}", "✕ 放不下：超出 {limit} 达 {over}"),
    "seeking": Text("Looking for what would fit …", "正在寻找放得下的设置……"),
    "short_encode_text": Text("text", "文本"),
    "short_encode_image": Text("image", "图片"),
    "short_denoise": Text("denoise", "去噪"),
    "short_decode": Text("decode", "解码"),
    "waiting": Text("waiting, place", "排队，第"),
    "reconnecting": Text("Server not reached; trying again …", "无法连接服务器，正在重试……"),
    "idle_hint": Text(
        "Press Generate (Ctrl+Enter) and watch memory and time while the clip is made.",
        "点击“开始生成”（Ctrl+Enter），在生成视频的同时观察显存与时间。",
    ),
    # charts
    "allocated": Text("Allocated", "已分配"),
    "reserved": Text("Reserved", "已预留"),
    "host": Text("Host", "主机内存"),
    "card_memory": Text("card", "显卡"),
    "seconds_per_step": Text("Seconds per step", "每步秒数"),
    "since_start": Text("seconds since the start", "开始后的秒数"),
    "stage": Text("Stage", "阶段"),
    "stage_time": Text("Time", "用时"),
    "stage_peak": Text("Peak", "峰值"),
    "stage_load": Text("Load", "加载"),
    "stage_encode_text": Text("Encode text", "编码文本"),
    "stage_encode_image": Text("Encode image", "编码图片"),
    "stage_denoise": Text("Denoise", "去噪"),
    "stage_decode": Text("Decode", "解码"),
    "stage_write": Text("Write", "写出"),
    "download": Text("Download", "下载"),
    "preview": Text("a rough look, sharpened when it is decoded", "粗略预览，解码后变清晰"),
    "no_video": Text("The clip appears here", "视频将显示在这里"),
    # status words
    "status_idle": Text("ready", "就绪"),
    "status_queued": Text("queued", "排队中"),
    "status_running": Text("running", "运行中"),
    "status_cancelling": Text("cancelling", "正在取消"),
    "status_done": Text("done", "完成"),
    "status_cancelled": Text("cancelled", "已取消"),
    "status_out_of_memory": Text("out of memory", "显存不足"),
    "status_crashed": Text("crashed", "已崩溃"),
    "status_failed": Text("failed", "失败"),
    "status_unknown": Text("unknown run", "未知的运行"),
    # runs
    "when": Text("When", "时间"),
    "clip": Text("Clip", "视频"),
    "seconds": Text("Time", "用时"),
    "settings": Text("Settings", "设置"),
    "use_settings": Text("Use settings", "载入设置"),
    "no_runs": Text("No runs yet.", "还没有运行记录。"),
    # presets
    "preset_text": Text("What the preset says", "预设内容"),
    "preset_load": Text("Load into the knobs", "载入旋钮"),
    "preset_delete": Text("Delete", "删除"),
    "preset_name": Text("Save the current settings as", "将当前设置保存为"),
    "preset_save": Text("Save", "保存"),
    "preset_download": Text("Download current settings", "下载当前设置"),
    "preset_import": Text("Import .toml or .mp4", "导入 .toml 或 .mp4"),
    "preset_help": Text(
        "A preset keeps the knobs, size and sampling; the one inside an mp4 keeps prompt and seed too. "
        "Pictures and source clips are in neither.",
        "预设保存旋钮、尺寸和采样；mp4 内的预设还保存提示词和种子。两者都不含图片和源视频。",
    ),
    "own": Text("yours", "自建"),
    # messages
    "queued_behind": Text("Waiting: one run at a time.", "已排队：每次只运行一个。"),
    "loaded": Text("Settings loaded: {name}", "已载入设置：{name}"),
    "loras_left_out": Text(
        "The page does not merge LoRA files yet, so this preset's are left out: {files}. On the command line, "
        "tuner run --preset merges them.",
        "页面暂不支持合并 LoRA 文件，此预设中的未被使用：{files}。命令行 tuner run --preset 会合并它们。",
    ),
    "saved": Text("Preset saved: {name}", "预设已保存：{name}"),
    "deleted": Text("Preset deleted: {name}", "预设已删除：{name}"),
}

UNITS: dict[str, Text] = {
    "frames": Text("frames", "帧"),
    "samples": Text("samples", "样本"),
    "GiB": Text("GiB", "GiB"),
    "tokens": Text("tokens", "词元"),
    "blocks": Text("blocks", "块"),
    "threads": Text("threads", "线程"),
    "": Text("", ""),
}


def knob_title(name: str) -> Text:
    """The label of a knob: its title and its unit."""
    knob = KNOBS[name]
    unit = UNITS[knob.unit]
    return Text(*(f"{title} · {of}" if of else title for title, of in zip(knob.title, unit, strict=True)))


def every_word() -> dict[str, Text]:
    """All words of the page, those of the knobs included, by key without prefix."""
    knobs: dict[str, Text] = {}
    for name, knob in KNOBS.items():
        knobs[f"knob_{name}"] = knob_title(name)
        knobs[f"help_{name}"] = knob.help
    return {**WORDS, **knobs}


def translations(more: Mapping[str, Text]) -> gr.I18n:
    """What Gradio translates widgets with; it follows the browser's language.

    Args:
        more: Words known only at run time, such as the titles of models, by key.
    """
    words = {**every_word(), **more}.items()
    return gr.I18n(
        en={PREFIX + key: text.en for key, text in words}, zh={PREFIX + key: text.zh for key, text in words}
    )


def word(key: str) -> str:
    """A label of a Gradio widget, translated in the browser.

    Raises:
        KeyError: The dictionary has no such word.
    """
    if key not in every_word():
        raise KeyError(key)
    return translated(key)


def translated(key: str) -> str:
    """As :func:`word`, for a key that is known only at run time."""
    return str(gr.I18n()(PREFIX + key))


def both(key: str) -> str:
    """Markup that holds a word in both languages; the style sheet shows one."""
    return both_of(WORDS[key])


def both_of(text: Text) -> str:
    """As :func:`both`, of any text."""
    if text.en == text.zh:
        return escape(text.en)
    return f'<span lang="en">{escape(text.en)}</span><span lang="zh">{escape(text.zh)}</span>'


def language(request: gr.Request | None) -> str:
    """``zh`` when the browser asks for Chinese first, else ``en``."""
    accepted = request.headers.get("accept-language", "") if request else ""
    return "zh" if accepted.strip().lower().startswith("zh") else "en"


def say(key: str, spoken: str, **values: str) -> str:
    """A message in one language, with values filled in."""
    return getattr(WORDS[key], spoken).format(**values)
