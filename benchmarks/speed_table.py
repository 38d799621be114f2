"""The tables of `speed.py`'s result as Markdown."""

from typing import Any

from modeling_splip.common.text import markdown_table


def speed(report: dict[str, Any]) -> str:
    """Return the promised ratios, the cost of an image, of a training step and of more classes."""
    return "\n\n".join([_caption(report), _bars(report), _costs(report), _training(report), _classes(report)])


def _caption(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread"
    return (
        f"ViT-{settings['shape']} sizes, random weights, {settings['classes']} classes, {settings['dtype']}; {where}; "
        f"torch {machine['torch']}; medians of cases that take turns, in {settings['clock']}."
    )


def _bars(report: dict[str, Any]) -> str:
    rows = [[row["what"], f"{row['bar']:g}", f"{row['measured']:.3g}", _met(row["met"])] for row in report["bars"]]
    return markdown_table(["promised ratio of times", "bar", "measured", ""], rows)


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _costs(report: dict[str, Any]) -> str:
    vision = report["vision"]
    times = dict(vision["milliseconds_an_image"])
    compiled = vision.get("compiled", {}).get("milliseconds_an_image", {})
    times |= {name: compiled[name] for name in compiled if name not in times}
    plain = times["plain CLIP"]["median"]
    rows = [[name, f"{row['median']:.1f}", f"{row['median'] / plain:.2f}"] for name, row in times.items()]
    for name, row in report["text"]["milliseconds_an_image"].items():
        rows.append([f"text pass alone, {name}", f"{row['median']:.0f}", f"{row['median'] / plain:.1f}"])
    return markdown_table(["encoding", "ms an image", "of plain CLIP's time"], rows)


def _training(report: dict[str, Any]) -> str:
    memory = report.get("memory", {}).get("megabytes_an_image", {})
    rows = []
    for dtype, part in report["training"].items():
        for name, times in part["milliseconds_a_triplet"].items():
            seconds = f"{times['median'] / 1000:.2f}"
            rows.append([f"{name}, {dtype}", seconds, str(memory.get(dtype, {}).get(name, "-"))])
    return markdown_table(["training step", "s a triplet (four images)", "MB an image"], rows)


def _classes(report: dict[str, Any]) -> str:
    part = report["classes"]
    rows = []
    for name in ("forward", "forward and backward"):
        fit = part[name]["fit"]
        law = f"{fit['a']:.3g} + {fit['b']:.3g} C + {fit['c']:.3g} C²"
        rows.append([name, *(f"{value:.0f}" for value in part[name]["milliseconds_an_image"]), law])
    header = ["packed text pass, ms an image", *(f"C = {count}" for count in part["classes"]), "fitted"]
    return markdown_table(header, rows)
