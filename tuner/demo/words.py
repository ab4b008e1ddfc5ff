"""The words of the demo's language: every way to name a thing of its world, in English and Chinese."""

from __future__ import annotations

from typing import NamedTuple

from tuner.demo.scene import Colour, Motion, Setting, Shape, Style


class Words(NamedTuple):
    """Ways to say one thing, the plainest first."""

    en: tuple[str, ...]
    zh: tuple[str, ...]


COLOURS: dict[Colour, Words] = {
    "red": Words(("red", "crimson", "scarlet"), ("红色的", "红色", "红", "大红色的")),
    "orange": Words(("orange", "tangerine"), ("橙色的", "橙色", "橘色的", "橘黄色的")),
    "yellow": Words(("yellow", "golden"), ("黄色的", "黄色", "黄", "金色的")),
    "green": Words(("green", "emerald"), ("绿色的", "绿色", "绿", "翠绿的")),
    "blue": Words(("blue", "cobalt"), ("蓝色的", "蓝色", "蓝", "深蓝色的")),
    "purple": Words(("purple", "violet"), ("紫色的", "紫色", "紫", "紫罗兰色的")),
    "pink": Words(("pink", "rosy"), ("粉色的", "粉色", "粉红色的", "粉红")),
    "white": Words(("white", "snowy"), ("白色的", "白色", "白", "雪白的")),
}
SHAPES: dict[Shape, Words] = {
    "circle": Words(("circle", "ball", "disc", "sphere"), ("圆形", "球", "圆球", "圆")),
    "square": Words(("square", "box", "cube"), ("方形", "正方形", "方块", "盒子")),
    "triangle": Words(("triangle", "pyramid"), ("三角形", "三角", "金字塔")),
    "star": Words(("star", "five-pointed star"), ("星星", "星形", "五角星", "星")),
}
MOTIONS: dict[Motion, Words] = {
    "left": Words(
        ("moving left", "moves to the left", "going left", "drifting leftwards", "that flies to the left"),
        ("向左移动", "往左走", "向左飞", "朝左边移动", "左移"),
    ),
    "right": Words(
        ("moving right", "moves to the right", "going right", "drifting rightwards", "that flies to the right"),
        ("向右移动", "往右走", "向右飞", "朝右边移动", "右移"),
    ),
    "up": Words(
        ("moving up", "rising", "moves upwards", "going up", "that flies up"),
        ("向上移动", "上升", "往上飞", "升起", "朝上移动"),
    ),
    "down": Words(
        ("moving down", "falling", "moves downwards", "sinking", "going down"),
        ("向下移动", "下降", "往下落", "落下", "下沉"),
    ),
    "circling": Words(
        ("circling", "going round in a circle", "orbiting", "moves in circles", "spinning round"),
        ("转圈", "绕圈", "做圆周运动", "环绕", "绕着圈飞"),
    ),
    "bouncing": Words(
        ("bouncing", "bounces", "jumping", "hopping up and down", "jumps"),
        ("弹跳", "跳动", "蹦蹦跳跳", "上下弹跳", "在跳"),
    ),
    "growing": Words(
        ("growing", "getting bigger", "grows", "becoming larger", "swelling"),
        ("变大", "长大", "越来越大", "逐渐放大", "在变大"),
    ),
    "still": Words(
        ("standing still", "at rest", "that does not move", "motionless", "staying still"),
        ("静止不动", "静止", "一动不动", "停着", "不动"),
    ),
}
SETTINGS: dict[Setting, Words] = {
    "day": Words(
        ("at day", "in daylight", "in the day sky", "on a sunny day", "by day"),
        ("白天", "在白天", "天空中", "在蓝天下", "晴天"),
    ),
    "night": Words(
        ("at night", "in the night sky", "on a dark night", "in the dark", "by night"),
        ("夜晚", "在夜空中", "夜里", "晚上", "黑夜中"),
    ),
    "sea": Words(
        ("in the sea", "under water", "in the ocean", "under the sea", "in deep water"),
        ("海里", "在海里", "水下", "大海中", "海底"),
    ),
}
STYLES: dict[Style, Words] = {
    "plain": Words(
        ("on a plain background", "plain background", "on a flat background", "with a simple background"),
        ("纯色背景", "纯色背景上", "单色背景", "简单的背景"),
    ),
    "gradient": Words(
        ("on a gradient background", "gradient background", "with a smooth gradient", "on a shaded background"),
        ("渐变背景", "渐变背景上", "渐变色背景", "平滑渐变"),
    ),
    "textured": Words(
        ("on a textured background", "textured background", "with a rich texture", "on a detailed background"),
        ("纹理背景", "纹理背景上", "有纹理的背景", "丰富的背景"),
    ),
}
FILLERS = Words(
    (
        "a video of",
        "high quality",
        "beautiful",
        "please show me",
        "smooth motion",
        "cinematic",
        "best quality",
        "clear",
        "a short film with",
        "masterpiece",
    ),
    ("高质量", "清晰", "一段视频", "请画", "最佳品质", "流畅的画面", "杰作", "美丽", "电影感", "可爱"),
)
UNKNOWN = Words(
    ("cat", "looks around", "my friend", "running", "house", "with a hat", "table", "old", "music", "tomorrow"),
    ("小狗", "摇头", "朋友", "房子", "跑步", "帽子", "桌子", "音乐", "明天", "山"),
)
"""Everyday words that name nothing of the world: training shows that they mean nothing."""
