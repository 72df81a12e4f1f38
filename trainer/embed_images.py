"""Embed pictures with an image model in a local folder, for trainer/eeg2image.py.

    python trainer/embed_images.py --images /data/things/image_set --encoder /models/ViT-H-14 \\
        --out embeddings/vit-h
    python trainer/embed_images.py --images pictures/ --encoder pixels --out embeddings/pixels

The model is any image model of transformers (CLIP, SigLIP, DINOv2 ...), with safetensors. Nothing
is downloaded: compute nodes have no network. Pictures are searched below --images; their folders
name their concepts. Writes OUT.safetensors (fp16) and OUT.json. Start the same command again to go
on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_command
from data.files import make_folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of pictures, one folder a concept")
    add("--encoder", required=True, help="folder of an image model, or pixels (a baseline)")
    add("--out", type=Path, required=True, help="FOLDER/NAME of the pair that is written")
    add("--layers", default="", help="blocks to keep beside the projection, as 12,20,-1")
    add("--batch", type=int, default=32, help="pictures at once [32]")
    add("--device", default="auto", help="auto, cpu or cuda[:N] [auto]")
    arguments = parser.parse_args(argv)
    if arguments.batch < 1:
        raise InputError(f"--batch {arguments.batch}", "it must be at least 1")
    try:
        layers = [int(one) for one in arguments.layers.split(",") if one]
    except ValueError:
        raise InputError(f"--layers {arguments.layers}", "write numbers, as 12,20,-1") from None
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    from trainer.images.embedding.embedding_run import embed_pictures
    from trainer.images.embedding.picture_encoder import (
        PIXELS_ENCODER,
        FolderEncoder,
        PixelsEncoder,
    )
    from trainer.images.embedding.picture_files import list_pictures
    from trainer.ranks.ranks import choose_device

    pictures = list_pictures(arguments.images)
    if arguments.encoder == PIXELS_ENCODER:
        encoder = PixelsEncoder()
    else:
        device = choose_device(arguments.device)
        encoder = FolderEncoder(Path(arguments.encoder), layers, device)
    make_folder(arguments.out.parent, "--out")
    found = embed_pictures(pictures, encoder, arguments.out, arguments.batch)
    widths = ", ".join(f"{name} {one.shape[1]}" for name, one in found.layers.items())
    print(
        f"{len(found.images)} pictures of {len(set(found.concepts))} concepts: {widths}\n"
        f"written: {arguments.out}.safetensors and .json",
        flush=True,
    )


if __name__ == "__main__":
    run_command(main)
