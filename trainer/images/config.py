"""The settings of a run of trainer/eeg2image.py: the engine's, and the model's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from data.errors import InputError, did_you_mean
from trainer.engine.config import RunConfig, option

TRUNKS = ("encoder", "flat", "conv", "aligned")
MODES = ("full", "frozen", "lora")
SIMULATED = "simulated-images"


@dataclass(frozen=True)
class ImagesConfig(RunConfig):
    """One retrieval run. `--init` is the encoder that `--trunk encoder` starts from."""

    without: ClassVar[tuple[str, ...]] = ("shard_url", "eval_windows", "figure_every")

    shards: str = option("", "folder of training trials; left out: simulated ones are made")
    simulated: str = option(SIMULATED, "without --shards: what they are made from")
    images: str = option("", "embeddings of the pictures (trainer/embed_images.py)")
    layer: str = option("", "which layer of the embeddings; default projected, or the only one")
    run: str = option("runs/image", "folder of this run: config, metrics, checkpoints, best/")
    protocol: str = option("within:all", "within:PERSON[,..], within:all or loso:PERSON")
    trunk: str = option("aligned", "what reads a trial: encoder, flat, conv or aligned")
    encoder_mode: str = option("full", "of --trunk encoder: full, frozen or lora")
    from_scratch: bool = option(False, "the encoder's network with first weights: its twin")
    lora_rank: int = option(8, "of --encoder_mode lora")
    layer_decay: float = option(0.75, "learning-rate factor from an encoder block to the one below")
    hidden: int = option(256, "width of the projector")
    dropout: float = option(0.3, "of the projector's block")
    forget_person: float = option(0.2, "share of training trials whose person is not told")
    projected: int = option(32, "numbers that embeddings are mapped to, linearly; 0: as they are")
    window_ms: str = option("0-800", "what the trunk reads, FROM-TO after onset")
    before_onset: bool = option(False, "a control: read what comes before the picture instead")
    drop_test_concepts: str = option(
        "",
        "leave out trials of what is tested: the folder of test trials (its manifest is read), "
        "that of their pictures, or a list of concepts",
    )
    channels: str = option("all", "all that any recording has, posterior (17), or names as O1+O2")
    val_concepts: int = option(0, "concepts that choose the step; 0: 200, of few a seventh")
    val_repeats: int = option(4, "trials of a picture that validation adds up")
    refit: str = option("", "a finished run: train again on all concepts, for the steps it chose")
    permute: bool = option(False, "a control: train on pictures permuted over the training set")
    precision: str = option("auto", "json, bf16, fp32; auto: as the JSON on a GPU, fp32 on a CPU")
    steps: int = option(500, "optimizer steps of the whole run")
    global_batch: int | None = option(512, "trials a step over all ranks")
    micro_batch: int | None = option(
        None, "trials a rank takes at once; default: all of its share, with an encoder the JSON's"
    )
    lr: float | None = option(1e-3, "peak learning rate")
    eval_every: int = option(50, "steps between validations")
    save_every: int = option(250, "steps between checkpoints")
    eval_windows: int = 1
    figure_every: int = 0

    def __post_init__(self):
        super().__post_init__()

        def check(name: str, good: bool, remedy: str) -> None:
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", remedy)

        check("trunk", self.trunk in TRUNKS, did_you_mean(self.trunk, TRUNKS, "one of"))
        check("encoder_mode", self.encoder_mode in MODES, f"use one of {', '.join(MODES)}")
        check("eval_every", self.eval_every >= 1, "it must be at least 1")
        for name in ("hidden", "lora_rank", "val_repeats"):
            check(name, getattr(self, name) >= 1, "it must be at least 1")
        for name in ("projected", "val_concepts"):
            check(name, getattr(self, name) >= 0, "it must not be negative")
        for name in ("dropout", "forget_person"):
            check(name, 0 <= getattr(self, name) < 1, "it must lie in [0, 1)")
        check("layer_decay", 0 < self.layer_decay <= 1, "it must lie between 0 and 1")
        window_s(self.window_ms)
        if self.shards and not self.images:
            raise InputError("--images is missing", "give the pictures' embeddings: "
                             "trainer/embed_images.py makes them")  # fmt: skip
        if self.trunk == "encoder" and self.init is None:
            raise InputError("--trunk encoder needs --init", "give a run folder or weights")
        if self.from_scratch and (self.trunk != "encoder" or self.encoder_mode == "lora"):
            raise InputError("--from_scratch", "it is of --trunk encoder, frozen or full")
        if self.trunk != "encoder" and self.init is not None:
            raise InputError(f"--init with --trunk {self.trunk}", "use --trunk encoder")
        if self.shard_url:
            raise InputError("--shard_url with pictures", "they are read from local shards")


def window_s(text: str) -> tuple[float, float]:
    """(from, to) in seconds of FROM-TO in milliseconds after onset; InputError for another."""
    start, dash, stop = text.rpartition("-")
    try:
        found = float(start) / 1000, float(stop) / 1000
    except ValueError:
        found = 0.0, 0.0
    if not dash or found[0] >= found[1]:
        raise InputError(f"--window_ms {text}", "write FROM-TO in ms after onset, e.g. 0-800")
    return found


assert {"shard_url", "eval_windows"} <= {entry.name for entry in fields(ImagesConfig)}
