"""How the page looks: theme, style sheet and the scripts it runs, all from this machine."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from gradio.themes import Base, LocalFont, colors, sizes

STATIC = Path(__file__).parent / "static"
PLOTLY_JS = Path(str(files("plotly"))) / "package_data" / "plotly.min.js"


def read(name: str) -> str:
    """The text of one of the page's own files."""
    return (STATIC / name).read_text(encoding="utf-8")


def theme() -> Base:
    """Calm colours, small text, system and bundled fonts only: no request leaves the machine."""
    return Base(
        primary_hue=colors.indigo,
        secondary_hue=colors.sky,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_md,
        spacing_size=sizes.spacing_sm,
        text_size=sizes.text_sm,
        font=[
            LocalFont("IBM Plex Sans"),
            "ui-sans-serif",
            "Noto Sans CJK SC",
            "PingFang SC",
            "Microsoft YaHei",
            "system-ui",
            "sans-serif",
        ],
        font_mono=[LocalFont("IBM Plex Mono"), "ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_size="*text_xs",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
        button_primary_background_fill_dark="*primary_500",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_800",
        slider_color="*primary_500",
    )
