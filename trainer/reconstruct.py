"""Draw the pictures that people saw from what their EEG tells of them.

    python trainer/reconstruct.py runs/image --out pictures/       # blurs, without any weights
    python trainer/reconstruct.py runs/image --generator /models/sdxl-turbo \\
        --adapter /models/ip-adapter_sdxl_vit-h.safetensors --images_folder image_set --out drawn/

Six pictures of each, side by side and from the same noise: from EEG, from the picture's own
embedding, from the mean of all, from a random training picture's, from EEG of another picture, and
from the training picture that is nearest. A good picture in all six is the generator's work. Writes
sheet.png, report.md, report.json and each picture into --out. Start the same command again to go on
where it stopped. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_command
from data.files import write_atomic


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="run folder of trainer/eeg2image.py")
    add("--out", type=Path, required=True, help="the folder that is written")
    add("--test_shards", type=Path, help="test trials; simulated ones are found by themselves")
    add("--generator", default="linear", help="linear, or an SDXL folder of diffusers [linear]")
    add("--adapter", type=Path, help="the generator's IP-Adapter, NAME.safetensors")
    add("--images_folder", type=Path, help="the pictures themselves; simulated ones are known")
    add("--count", type=int, default=0, help="test pictures to draw, by hash; 0: all")
    add("--rows", type=int, default=10, help="pictures on the contact sheet [10]")
    add("--inference_steps", type=int, default=4, help="of the diffusion [4, for turbo]")
    add("--guidance", type=float, default=0.0, help="of the diffusion [0, for turbo]")
    add("--size", type=int, help="side of a drawn picture, pixels [the generator's own]")
    add("--batch", type=int, default=8, help="pictures drawn at once [8]")
    add("--seed", type=int, default=0, help="of the noise [0]")
    add("--device", default="auto", help="auto, cpu or cuda[:N] [auto]")
    arguments = parser.parse_args(argv)
    for name in ("rows", "inference_steps", "batch"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}", "it must be at least 1")
    if arguments.count == 1 or arguments.count < 0:
        raise InputError(f"--count {arguments.count}", "give 0 for all, or at least 2")
    if (arguments.generator != "linear") != (arguments.adapter is not None):
        raise InputError(
            f"--generator {arguments.generator} {'with' if arguments.adapter else 'without'} "
            "--adapter",
            "a diffusion generator needs an IP-Adapter; linear takes none",
        )
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    from trainer.images.pictures.reconstruction import reconstruct
    from trainer.images.pictures.sheet import contact_sheet, markdown

    report, columns, names = reconstruct(arguments)
    contact_sheet(columns, names).savefig(arguments.out / "sheet.png", dpi=130)
    text = markdown(report)
    write_atomic(arguments.out / "report.md", text.encode())
    write_atomic(arguments.out / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    print(text, flush=True)
    print(f"written: {arguments.out}/sheet.png, report.md, .json and pictures/", flush=True)


if __name__ == "__main__":
    run_command(main)
