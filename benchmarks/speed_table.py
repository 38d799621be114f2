"""The tables of `speed.py`'s result as Markdown."""

from typing import Any

from modeling_splip.common.text import markdown_table

FED = ("pipeline alone", "step alone", "both together")


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


def device(report: dict[str, Any]) -> str:
    """Return what was measured on a device: promised numbers, encoding, training steps, and the rest in a line each."""
    found = report.get("ceiling", {})
    peak, sheet = found.get("measured_tflops"), found.get("datasheet_tflops")
    tables = [_caption(report), _bars(report)] if report["bars"] else [_caption(report)]
    encoding = report.get("encoding", {"batches": {}})
    batches: dict[str, dict[str, Any]] = {}
    for part in (encoding, report.get("compiled_encoding", {})):
        for size, cases in part.get("batches", {}).items():
            batches[size] = cases | batches.get(size, {})
    rows = [
        [size, name, f"{row['images_a_second']:,.0f}", f"{row['of_plain']:.2f}", _shares(encoding, row, peak, sheet)]
        for size, cases in batches.items()
        for name, row in cases.items()
    ]
    if rows:
        tables.append(markdown_table(["batch", "encoding", "images/s", "of plain CLIP's time", "of the peak"], rows))
    rows = [
        [name, str(row["triplets"]), f"{row['seconds']:.3f}", f"{row['images_a_second']:,.0f}", str(row["peak_gb"])]
        for name, row in (report.get("training_steps", {}) | report.get("compiled_steps", {})).items()
        if isinstance(row, dict) and "seconds" in row
    ]
    if rows:
        tables.append(markdown_table(["training step", "triplets", "s", "images/s", "peak GB"], rows))
    tables += [*_packing(report.get("packing", {})), *_feeding(report.get("feeding", {}))]
    lines = [
        f"- {name}: {', '.join(f'{key.replace(chr(95), chr(32))} {value}' for key, value in report[name].items())}"
        for name in ("ceiling", "metrics", "indexing", "exactness")
        if name in report
    ]
    return "\n\n".join([*tables, "\n".join(lines)]).strip()


def _packing(part: dict[str, Any]) -> list[str]:
    rows = [
        [images, way, *(str(row.get(key, "-")) for key in ("milliseconds", "peak_gb", "differs_by"))]
        for images, ways in part.items()
        if isinstance(ways, dict)
        for way, row in ways.items()
    ]
    title = "text pass, forward and backward" if part.get("backward") else "text pass, forward"
    return [markdown_table(["images", title, "ms", "peak GB", "differs by"], rows)] if rows else []


def _feeding(part: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{method}, {case}",
            *(f"{row['images_a_second'][way]:,.0f}" for way in FED),
            str(row["together_by_step_alone"]),
        ]
        for method, cases in part.items()
        for case, row in cases.items()
        if isinstance(row, dict) and "images_a_second" in row
    ]
    header = ["training from files, images/s", *FED, "both by step alone"]
    return [markdown_table(header, rows)] if rows else []


def _shares(encoding: dict[str, Any], row: dict[str, Any], peak: float | None, sheet: float | None) -> str:
    """Return the share of the measured ceiling, and of the datasheet's; for plain CLIP's operations an image."""
    done = encoding.get("gflop_an_image", 0) * row["images_a_second"] / 1000
    return ", ".join(f"{100 * done / most:.0f} %" for most in (peak, sheet) if most and done) or "-"


def launches(report: dict[str, Any]) -> str:
    """Return how many kernels each case launches, before and now."""
    rows = []
    for case, now in report["now"]["bf16"].items():
        was = report["before"]["bf16"][case]
        rows.append([case, *(f"{was[name]:,} → {now[name]:,}" for name in ("kernels", "operations"))])
    return markdown_table(["one call (bf16, ViT-B/32's layers)", "kernels", "all operations"], rows)


def h200_before(report: dict[str, Any]) -> str:
    """Return what one card did before the changes for GPUs."""
    names = list(report["encoding"]["1"])
    rows = [
        [size, *(f"{row[name]:,}" if name in row else "-" for name in names)]
        for size, row in report["encoding"].items()
    ]
    steps = [
        [name, f"{row['seconds']:.3f}", f"{row['images_a_second']:,}", f"{row['peak_gb']}"]
        for name, row in report["training_steps"].items()
    ]
    machine = report["machine"]
    return "\n\n".join(
        [
            f"{report['about']} {machine['gpu']}, torch {machine['torch']}.",
            markdown_table(["encoding, images/s, batch", *names], rows),
            markdown_table(["training step, triplets", "s", "images/s", "peak GB"], steps),
        ]
    )
