"""The tables of `scale.py`'s result as Markdown, and what they say of a hundred million photos."""

from typing import Any

import numpy as np

from benchmarks.search_speed import DEPTH
from modeling_splip.common.text import markdown_table

MANY = 100_000_000
SIZES = ("1m", "3m", "10m")
# What is fitted: its title, its value in a record, and how it is written.
FITTED = (
    ("building, hours", lambda record: record["build_s"] / 3600, "{:.2g}"),
    ("one query, median, ms", lambda record: record["one_query"]["p50_ms"], "{:.2g}"),
    ("codes in memory, GB", lambda record: record["bytes"]["codes.faiss"] / 1e9, "{:.3g}"),
    ("16-bit floats in a file, GB", lambda record: record["bytes"]["vectors.f16"] / 1e9, "{:.3g}"),
)
# The plan's assumptions; prices are round numbers of 2026 without tax, to be replaced by one's own.
PLAN = {
    "photo_kb": 300,
    "row_kb": 10,
    "photos_a_core_second": 60,
    "gpu_photos_a_second": 2000,
    "encoders": 8,
    "encoder_cores": 8,
    "encoder_euros_an_hour": 1.3,
    "server_euros_an_hour": 0.5,
    "server_cores": 48,
    "core_share": 0.5,
}


def scale(report: dict[str, Any]) -> str:
    """Return every part that was measured."""
    parts = [_index(report), _fit(report), _codes(report), _updates(report), _encode(report)]
    return "\n\n".join(part for part in parts if part)


def fit(counts: list[int], values: list[float]) -> tuple[float, float, float]:
    """Return the power law `a * (photos / million) ** b` nearest to some values in logarithms.

    Returns:
        a, b, and the largest deviation of a value from the law, as a share of the law's.
    """
    x, y = np.log(np.array(counts) / 1e6), np.log(np.array(values))
    b, log_a = np.polyfit(x, y, 1)
    deviation = np.abs(np.exp(y - (b * x + log_a)) - 1).max()
    return float(np.exp(log_a)), float(b), float(deviation)


def predicted(report: dict[str, Any], title: str) -> float:
    """Return what the fit says of a hundred million photos."""
    records = [report[name] for name in SIZES]
    value = next(value for name, value, _ in FITTED if name == title)
    a, b, _ = fit([record["count"] for record in records], [value(record) for record in records])
    return a * (MANY / 1e6) ** b


def _index(report: dict[str, Any]) -> str:
    records = [report[name] for name in SIZES if name in report]
    if not records:
        return ""
    rows = []
    for record in records:
        one, memory = record["one_query"], record["memory_mib"]
        rows.append(
            [
                f"{record['count']:,}",
                f"{record['index']['depth']} of {record['lists']:,}",
                f"x {record['index']['rescored']}",
                f"{record[f'recall_at_{DEPTH}']:.3f}",
                f"{one['p50_ms']:.2f} ({one['p99_ms']:.2f})",
                f"{record['first_query_ms']:.0f}",
                f"{memory['anonymous']:,} + {memory['mapped']:,}",
                f"{memory['peak']:,}",
                f"{record['build_s'] / 60:.1f}",
                f"{record['build_memory_mib']['anonymous']:,}",
            ]
        )
    header = ["vectors", "lists opened", "scored again", f"recall@{DEPTH}", "one query, ms (99 %)", "first query, ms"]
    header += ["memory, anonymous + mapped, MiB", "its peak, MiB", "building, min", "anonymous memory then, MiB"]
    last = records[-1]
    caption = (
        f"Vectors of width {last['dim']} around centres, queries further out than the vectors; "
        f"{last['machine']['threads']} threads of {last['machine']['cores']} cores. Searches run in a process of their "
        f"own, whose libraries take {last['libraries_mib']} MiB of the memory."
    )
    bars = report.get("10m", {}).get("bars")
    verdict = ""
    if bars:
        reached = "All are met." if not bars["missed"] else f"**Missed: {', '.join(bars['missed'])}.**"
        verdict = (
            f"\n\nBars of ten million: median below {bars['p50_ms']:g} ms, recall of at least {bars['recall']:g}, "
            f"below {bars['memory_mib']:,} MiB with mapped pages. {reached}"
        )
    return f"{caption}\n\n{markdown_table(header, rows)}{verdict}"


def _fit(report: dict[str, Any]) -> str:
    if not all(name in report for name in SIZES):
        return ""
    records = [report[name] for name in SIZES]
    counts, rows = [record["count"] for record in records], []
    for title, value, form in FITTED:
        values = [value(record) for record in records]
        a, b, deviation = fit(counts, values)
        law = f"{a:.3g} · n^{b:.2f}"
        rows.append([title, *(form.format(each) for each in values), law, f"{100 * deviation:.0f} %"])
        rows[-1].append(form.format(a * (MANY / 1e6) ** b))
    header = ["", *(f"{count:,}" for count in counts), "law, n in millions", "largest deviation", f"{MANY:,}"]
    caption = (
        "What these say of a hundred million, by a power law fitted to three points in logarithms: an estimate, on the "
        "same two cores, with all of the file in the system's cache."
    )
    return f"{caption}\n\n{markdown_table(header, rows)}\n\n{_plan(report)}"


def _plan(report: dict[str, Any]) -> str:
    """Return hours, machines and euros for a hundred million photos, on paper."""
    machine_rate = min(PLAN["photos_a_core_second"] * PLAN["encoder_cores"], PLAN["gpu_photos_a_second"])
    encode_h = MANY / (machine_rate * PLAN["encoders"]) / 3600
    speedup = PLAN["server_cores"] / 2 * PLAN["core_share"]
    build_h = predicted(report, "building, hours") / speedup
    codes, floats = (predicted(report, title) for title in ("codes in memory, GB", "16-bit floats in a file, GB"))
    euros = encode_h * PLAN["encoders"] * PLAN["encoder_euros_an_hour"]
    month = 730 * PLAN["server_euros_an_hour"]
    rows = [
        [
            "encode",
            f"{PLAN['encoders']} machines with an NVIDIA L4 and {PLAN['encoder_cores']} cores",
            f"{encode_h:.0f}",
            f"{euros:.0f}",
        ],
        [
            "build the index",
            f"1 machine, AMD EPYC 9454P ({PLAN['server_cores']} cores), 256 GB, NVMe",
            f"{build_h:.1f}",
            f"{build_h * PLAN['server_euros_an_hour']:.0f}",
        ],
        [
            "search",
            f"the same: {codes:.0f} GB of codes, {floats:.0f} GB of 16-bit floats in the system's cache",
            "-",
            f"{month:.0f} a month",
        ],
    ]
    caption = (
        f"On paper, for a hundred million photos of {PLAN['photo_kb']} KB ({MANY * PLAN['photo_kb'] / 1e9:.0f} TB to "
        f"read, {MANY * PLAN['row_kb'] / 1e9:.0f} TB to write):"
    )
    assumed = (
        f"Assumed, not measured: a core reads, decodes and shrinks {PLAN['photos_a_core_second']} photos a second, an "
        f"L4 encodes {PLAN['gpu_photos_a_second']:,} by a ViT-B/32 in bfloat16, so that cores and not GPUs set the "
        f"pace; the network keeps up; {PLAN['server_cores']} cores build {speedup:.0f} times as fast as two; "
        f"{PLAN['encoder_euros_an_hour']:g} euros an hour for a machine that encodes, "
        f"{PLAN['server_euros_an_hour']:g} for the one that searches; storage is not counted."
    )
    return f"{caption}\n\n{markdown_table(['', 'machines', 'hours', 'euros'], rows)}\n\n{assumed}"


def _codes(report: dict[str, Any]) -> str:
    if "codes" not in report:
        return ""
    part = report["codes"]
    widths = list(next(iter(part["kinds"].values()))["by_width"])
    rows = [
        [
            f"`{kind}`",
            f"{facts['bytes']}",
            *(
                f"{facts['by_width'][wide]['recall']:.3f} ({facts['by_width'][wide]['p50_ms']:.2f} ms)"
                for wide in widths
            ),
        ]
        for kind, facts in part["kinds"].items()
    ]
    caption = (
        f"What the lists may hold, {part['count']:,} vectors, {part['opened']} of {part['lists']} lists opened: "
        f"recall@{DEPTH} and the median of one query, by how many times the photos wanted are scored again."
    )
    return f"{caption}\n\n{markdown_table(['code', 'bytes a photo', *(f'x {wide}' for wide in widths)], rows)}"


def _updates(report: dict[str, Any]) -> str:
    if "updates" not in report:
        return ""
    part = report["updates"]
    sent, other = part["updates"], part["other_process"]
    rows = [
        [
            title,
            f"{part[key]['photos']:,}",
            f"{part[key][f'recall_at_{DEPTH}']:.4f}",
            f"{part[key]['one_query']['p50_ms']:.2f} ({part[key]['one_query']['p99_ms']:.2f})",
        ]
        for title, key in (("before", "before"), ("with all changes", "after"), ("compacted", "compacted"))
    ]
    caption = (
        f"Index `{part['index']}`: {sent['added']:,} photos added, {sent['changed']:,} changed and "
        f"{sent['removed']:,} removed in batches of "
        f"{part['batch']}: a batch takes {sent['batch_p50_ms']:g} ms (99 of 100: {sent['batch_p99_ms']:g} ms or less). "
        f"Another process searched {other['searches']:,} times meanwhile, {other['p50_ms']:g} ms in the median. "
        f"Opening the gallery with all changes takes {part['reopen_s']:g} s, compaction "
        f"{part['compact_s'] / 60:.1f} minutes, with a new index."
    )
    header = ["", "photos", f"recall@{DEPTH}", "one query, ms (99 %)"]
    return f"{caption}\n\n{markdown_table(header, rows)}"


def _encode(report: dict[str, Any]) -> str:
    if "encode" not in report:
        return ""
    part = report["encode"]
    rows = [
        [
            *key.split("_"),
            f"{facts['images_per_second']:g}",
            f"{facts['start_s']:g}",
        ]
        for key, facts in part["ways"].items()
    ]
    caption = (
        f"`splip index` on {part['images'][1]:,} drawn photos of 256 pixels, {part['model']}, one thread a process: "
        f"the rate of what this has more than {part['images'][0]:,} photos, so that the start does not count."
    )
    verdict = part.get("note", "")
    if "ray_overhead" in part:
        met = "met" if part["met"] else "**missed**"
        verdict = (
            f"Ray's share with one process: {100 * part['ray_overhead']:.1f} % (bar: {100 * part['bar']:.0f} %, {met})."
        )
    return f"{caption}\n\n{markdown_table(['way', 'processes', 'images a second', 'start, s'], rows)}\n\n{verdict}"
