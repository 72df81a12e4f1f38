"""Write a simulated file in the published layout of the visual-category (VC) recordings.

    python data/simulate_vc.py --out sources/vc_simulated.pth
    python data/pack.py --source vc:sources/vc_simulated.pth,montage=biosemi128 --out shards/vc

{dataset: [{eeg float32 [128, ~500], image int, label int, subject int}], labels: [str],
images: [str]}: 1 kHz, 5-95 Hz, standardised per channel, one 0.5 s segment for each image and
person, responses that depend on class and image on top of ongoing activity. A split file by image
is written beside it. Unlike the published recordings, images come in random order, not in blocks.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # repo root, not this directory

import argparse
import io

import mne
import numpy as np
import torch

from data.diskspace import disk_full, is_full
from data.errors import InputError, run_command
from data.files import write_atomic
from data.simulate.eeg import (
    PLACES,
    Person,
    Population,
    leadfield_uv,
    person,
    population,
    record_uv,
    source_activity,
)
from data.simulate.head import montage_directions

SFREQ_HZ = 1000.0
MONTAGE = "biosemi128"
SPACING = 520  # samples from one image to the next
EDGE = 1000  # samples before the first image and after the last: room for the filter
VISUAL = ("O1", "O2", "PO3", "PO4", "POz", "P7", "P8", "T8", "P3", "P4", "Pz")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python data/simulate_vc.py",
        description="Write simulated visual-category recordings (.pth) and their split by image.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the .pth file to write")
    add("--splits", type=Path, help="the split file (default: OUT with _splits_by_image added)")
    add("--subjects", type=int, default=5, help="people (5)")
    add("--classes", type=int, default=8, help="classes (8)")
    add("--images", type=int, default=6, help="images of each class, at least 3 (6)")
    add("--seed", type=int, default=0, help="another seed is another population (0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    for name, least in (("subjects", 1), ("classes", 2), ("images", 3), ("seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}", f"give a number from {least}")
    splits = args.splits or args.out.with_name(f"{args.out.stem}_splits_by_image.pth")
    print(
        f"simulating {args.subjects} people x {args.classes * args.images} images, "
        f"128 channels ({MONTAGE}), 1 kHz, seed {args.seed}"
    )
    recordings = simulate_vc(args.subjects, args.classes, args.images, args.seed)
    _save(args.out, recordings)
    _save(splits, split_by_image(recordings, args.images))
    print(
        f"wrote {args.out} ({len(recordings['dataset'])} segments) and {splits}\n"
        f"next:  python data/pack.py --source vc:{args.out},montage={MONTAGE} --out shards/vc"
    )
    return 0


def simulate_vc(subjects: int, classes: int, images: int, seed: int = 0) -> dict:
    """The file's content, see the module's docstring; images of class c are c*images onwards."""
    people = population(seed)
    labels = [f"n{90_000_000 + number:08d}" for number in range(classes)]
    dataset = []
    for subject in range(1, subjects + 1):
        dataset += _of_subject(people, subject, classes, images)
    return {
        "dataset": dataset,
        "labels": labels,
        "images": [f"{label}_{number}" for label in labels for number in range(images)],
    }


def split_by_image(recordings: dict, images: int) -> dict:
    """{splits: [{train, val, test: [segment indices]}]}: of each class the last image tests and
    the one before it validates, for all people."""
    names = ["train"] * (images - 2) + ["val", "test"]
    split: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for index, segment in enumerate(recordings["dataset"]):
        split[names[segment["image"] % images]].append(index)
    return {"splits": [split]}


def _of_subject(people: Population, subject: int, classes: int, images: int) -> list[dict]:
    """The segments of one person, in the random order in which the images were shown."""
    _, _, directions = montage_directions(MONTAGE)
    who = person(people, subject, MONTAGE)
    rng = np.random.default_rng([*who.seed, 8])
    order = rng.permutation(classes * images)
    n_samples = 2 * EDGE + SPACING * len(order)
    activity = source_activity(people, who, n_samples, SFREQ_HZ)
    starts = EDGE + SPACING * np.arange(len(order))
    for start, image in zip(starts, order, strict=True):
        response = _response(people, who, int(image) // images, int(image), rng)
        activity[: len(response), start : start + response.shape[1]] += response
    signal = record_uv(people, who, leadfield_uv(people, who, directions), activity, SFREQ_HZ)
    signal = mne.filter.filter_data(signal, SFREQ_HZ, 5.0, 95.0, verbose="error")
    signal = (signal - signal.mean(1, keepdims=True)) / signal.std(1, keepdims=True)
    return [
        {
            "eeg": torch.from_numpy(signal[:, start : start + length].astype(np.float32)),
            "image": int(image),
            "label": int(image) // images,
            "subject": subject,
        }
        for start, image, length in zip(
            starts, order, rng.integers(488, 512, len(order)), strict=True
        )
    ]


def _response(
    people: Population, who: Person, label: int, image: int, rng: np.random.Generator
) -> np.ndarray:
    """Evoked moments [patches, samples] in nA.m: a class's pattern, changed a little by the image
    and by the trial."""
    patches = [PLACES.index(name) + len(PLACES) * k for name in VISUAL for k in (0, 1)]
    of_class = np.random.default_rng([people.seed, 9, label])
    of_image = np.random.default_rng([people.seed, 10, image])
    time_s = np.arange(500) / SFREQ_HZ
    response = np.zeros((2 * len(PLACES), len(time_s)))
    for patch in of_class.choice(patches, 8, replace=False):
        latency_s = of_class.uniform(0.09, 0.30) + 0.01 * of_image.standard_normal()
        wave_hz, width_s = of_class.uniform(5, 14), of_class.uniform(0.03, 0.07)
        strength = 60.0 * of_class.choice([-1, 1]) * of_image.lognormal(0, 0.3)
        strength *= who.gains[patch] * rng.lognormal(0, 0.2)
        from_peak = time_s - latency_s
        wave = np.cos(2 * np.pi * wave_hz * from_peak) * np.exp(-0.5 * (from_peak / width_s) ** 2)
        response[patch] += strength * wave
    return response


def _save(path: Path, value: dict) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        path.with_name(path.name + ".partial").unlink(missing_ok=True)
        if is_full(error):
            raise disk_full(path.parent, buffer.tell()) from None
        raise InputError(f"{path}: {error.strerror}", "choose another --out") from None


if __name__ == "__main__":
    run_command(main)
