"""``twotower export``: a bundle as ONNX (Open Neural Network Exchange), for programs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import examples
from twotower.core.errors import InputError

EXAMPLES = examples(
    "twotower export runs/sasrec --onnx --to runs/sasrec-onnx",
    "twotower export runs/two-tower --onnx --int8 --to runs/two-tower-onnx",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write both towers as ONNX graphs, with their tables.")] = False,
    to: Annotated[Path | None, typer.Option(help="Folder to write.", show_default=False)] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write the towers with weights of 8 bits too, and measure the loss.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Write a bundle's towers for programs that have NumPy and ONNX Runtime alone."""
    from twotower.core.terminal import json_text, visible
    from twotower.serving.onnx.export import export_onnx

    if not onnx:
        raise InputError("say what to export to: --onnx")
    if to is None:
        raise InputError("say where to write: --to FOLDER")
    made = export_onnx(bundle, to, int8=int8)
    if as_json:
        typer.echo(json_text({key: made[key] for key in ("model", "bundle", "graphs", "difference", "int8")}))
        return
    worst = max(made["difference"].values())
    typer.echo(visible(f"{' and '.join(made['graphs'])} of {made['model']['name']} in {to}"))
    typer.echo(f"differs from PyTorch by {worst:.1e} at most")
    if loss := made["int8"]:
        typer.echo(
            f"8 bits keep {100 * loss['top_kept']:.1f} % of the best {loss['k']} "
            f"and take {loss['bytes'] / max(1, loss['bytes_of_float32']):.0%} of the space"
        )
