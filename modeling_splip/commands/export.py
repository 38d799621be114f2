"""Write a model to one ONNX file for phones, browsers and servers."""

import argparse
from pathlib import Path

from ..common.files import check_writable
from ..loading import load_retriever
from ..sharing.onnx_export import export_onnx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip export`."""
    parser.add_argument(
        "model", metavar="MODEL", help="checkpoint folder, Hub id, 'clip', 'clip:<base>', or a packaged one"
    )
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="kind of file (default: onnx)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file, NAME.onnx")
    parser.add_argument("--fp16", action="store_true", help="half precision: half the size")


def run(args: argparse.Namespace) -> int:
    """Write the file, and say what it holds and how far it is from PyTorch."""
    if args.model.endswith(".onnx"):
        raise ValueError(f"'{args.model}' is an ONNX file already: name the model that it was made of.")
    check_writable(args.out)
    model, processor = load_retriever(args.model)
    report = export_onnx(model, processor, args.out, args.fp16)
    same = "the model's own" if report.fingerprint == model.fingerprint(processor) else "not the model's own"
    print(f"{args.out}: {report.bytes:,} bytes, opset {report.opset}, {report.dtype}, a batch of any size")
    print(f"Inputs: {'; '.join(report.inputs)}")
    differences = ", ".join(f"{modality} {value:.1e}" for modality, value in report.differences.items())
    print(f"Largest difference from PyTorch in float32: {differences}")
    print(f"Fingerprint: {report.fingerprint}, {same}")
    print(f"Search with it: splip index PHOTOS --model {args.out} --out GALLERY")
    return 0
