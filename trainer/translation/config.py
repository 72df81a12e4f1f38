"""What an EEG-to-MEG run is: one frozen dataclass, filled from flags and the environment, checked
before a process group or a GPU is touched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from data.errors import InputError
from model.brainformer import BrainformerConfig
from trainer.engine.config import model_changes, option

OWN_MODEL_FIELDS = ("d_model", "n_heads", "n_layers", "skip_lags", "n_eeg", "n_meg", "skip_rank")


@dataclass(frozen=True)
class TranslationConfig:
    """One run. Fields are command-line flags of the same name."""

    environment: ClassVar[str] = "EEG2MEG_"
    """What the fields' names in the environment begin with."""

    data: str | None = option(None, "folder of paired shards; left out: simulated ones are made")
    simulated: str = option("simulated-pairs", "without --data: what data/pack.py makes them from")
    run: str = option("runs/eeg2meg", "folder of this run: config, metrics, checkpoints, best/")
    split: str = option("auto", "loso:SUBJECT[,..], loro:RUN[,..], time:SHARE or auto")
    deepspeed: str = option("ds_configs/zero2.json", "DeepSpeed JSON")
    precision: str = option("auto", "bf16, fp32; auto: as the JSON says on a GPU, fp32 on a CPU")
    d_model: int = option(64, "width of a token")
    n_heads: int = option(4, "attention heads")
    n_layers: int = option(1, "layers of the encoder, and as many of the decoder")
    sequence_length: int = option(256, "samples of a training piece")
    model: tuple[str, ...] = option((), "change another model field, as key=value; repeatable")
    init: str = option("ridge", "start of the linear map: ridge (training groups only) or zero")
    lags: int = option(0, "EEG samples before and after that the linear map sees")
    skip_rank: int = option(64, "rank of the linear map")
    eeg_encoder: str | None = option(
        None, "run folder or file of a pretrained masked autoencoder that reads the EEG"
    )
    encoder_lr: float = option(0.1, "learning rate of the --eeg_encoder, as a share of --lr")
    freeze_encoder: bool = option(False, "do not train the --eeg_encoder")
    steps: int = option(200, "optimizer steps of the whole run")
    stop_at: int | None = option(None, "save and stop at this step; the schedule spans --steps")
    micro_batch: int | None = option(None, "pieces of a rank's micro-batch; default: the JSON's")
    global_batch: int | None = option(None, "pieces of a step over all ranks; sets accumulation")
    lr: float = option(1e-3, "peak learning rate")
    skip_lr: float = option(0.3, "learning rate of the linear map, as a share of --lr")
    states_lr: float = option(3.0, "learning rate of the states' mixtures, as a share of --lr")
    meg_sensors: int = option(
        64, "MEG sensors drawn anew for each step, which makes it cheaper; 0: all"
    )
    weight_decay: float = option(0.01, "of matrices; never of the linear map")
    warmup: float = option(0.1, "share of the steps in which the learning rate rises")
    seed: int = option(0, "of weights, order and dropout")
    workers: int = option(0, "loader processes a rank; 0 reads in the training process")
    eval_every: int = option(50, "steps between evaluations on the validation groups")
    eval_pieces: int = option(64, "validation pieces that are scored, spread over all")
    patience: int = option(6, "evaluations without a better one before stopping; 0: never")
    save_every: int = option(100, "steps between checkpoints")
    keep_last: int = option(2, "checkpoints that are kept")
    log_every: int = option(5, "steps between log lines")
    figure_every: int = option(100, "steps between figures, also after the last; 0: none")
    resume: str = option("auto", "auto: go on where the run stopped; never: the folder must be new")
    restart_lost: bool = option(
        False, "where all checkpoints of this run are lost, set it aside and begin at step 0"
    )

    def __post_init__(self):
        def check(name: str, good: bool, remedy: str) -> None:
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", remedy)

        check("precision", self.precision in ("auto", "bf16", "fp32"), "use auto, bf16 or fp32")
        check("init", self.init in ("ridge", "zero"), "use ridge or zero")
        check("resume", self.resume in ("auto", "never"), "use auto or never")
        for name in ("steps", "sequence_length", "eval_every", "eval_pieces", "save_every",
                     "keep_last", "log_every", "skip_rank"):  # fmt: skip
            check(name, getattr(self, name) >= 1, "it must be at least 1")
        for name in (
            "lags",
            "workers",
            "patience",
            "figure_every",
            "weight_decay",
            "skip_lr",
            "states_lr",
            "meg_sensors",
        ):
            check(name, getattr(self, name) >= 0, "it must not be negative")
        for name in ("micro_batch", "global_batch", "stop_at"):
            check(name, (getattr(self, name) or 1) >= 1, "it must be at least 1")
        check("warmup", 0 <= self.warmup < 1, "it must be at least 0 and below 1")
        check("lr", self.lr > 0, "it must be > 0")
        check("seed", 0 <= self.seed < 2**31, "it must lie between 0 and 2**31")
        if self.lags >= self.sequence_length:
            raise InputError(
                f"--lags {self.lags} with --sequence_length {self.sequence_length}",
                "lags must be shorter than a piece",
            )
        if self.model_config(n_eeg=1, n_meg=1).skip == "none" and self.init == "ridge":
            raise InputError(
                "--model skip=none with --init ridge", "there is no map to start: --init zero"
            )

    @property
    def deepspeed_config(self) -> str:
        """As `RunConfig` calls it."""
        return self.deepspeed

    @property
    def last_step(self) -> int:
        return min(self.steps, self.stop_at or self.steps)

    def model_config(
        self, n_eeg: int, n_meg: int, eeg_encoder: dict | None = None
    ) -> BrainformerConfig:
        """The model's configuration for a data set with this many channels; the tables' sizes are
        used only by `--model skip=montage` and `sensor_embedding`. `eeg_encoder`: the pretrained
        encoder's settings, whose patch becomes the segment. InputError names the field."""
        changes = self.model_changes()
        for name in changes:
            if name in OWN_MODEL_FIELDS:
                flag = {"skip_lags": "lags"}.get(name, name)
                raise InputError(f"--model {name}=...", f"use the flag --{flag}, or leave it out")
        known = BrainformerConfig().to_dict()
        if unknown := sorted(set(changes) - set(known)):
            raise InputError(
                f"--model {unknown[0]}: no such field", "see docs/brainformer.md for the fields"
            )
        encoder = {}
        if eeg_encoder is not None:
            patch = eeg_encoder["vae"]["patch_samples"]
            encoder = {"eeg_encoder": eeg_encoder, "segment_samples": patch}
            changes.pop("segment_samples", None)
        tables = changes.get("skip") == "montage" or "sensor_embedding" in changes
        sizes = {"n_eeg": n_eeg, "n_meg": n_meg} if tables else {}
        try:
            return BrainformerConfig(
                d_model=self.d_model, n_heads=self.n_heads, n_layers=self.n_layers,
                skip_lags=self.lags, skip_rank=self.skip_rank, **sizes, **encoder, **changes,
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise InputError(
                f"--model: {error}", "see docs/brainformer.md for the fields"
            ) from None

    def model_changes(self) -> dict:
        """The `--model KEY=VALUE` flags."""
        return model_changes(self.model)

    def as_dict(self) -> dict:
        return asdict(self)


def batch_sizes(config: TranslationConfig, settings: dict, world: int) -> tuple[int, int]:
    """(micro-batch, accumulation) of a rank, from flags and the DeepSpeed JSON; InputError where
    the global batch is no multiple."""
    micro = config.micro_batch or settings.get("train_micro_batch_size_per_gpu", 8)
    accumulation = settings.get("gradient_accumulation_steps", 1)
    if config.global_batch:
        if config.micro_batch is None and config.global_batch < micro * world:
            micro = max(1, config.global_batch // world)
        accumulation, rest = divmod(config.global_batch, micro * world)
        if rest or not accumulation:
            raise InputError(
                f"--global_batch {config.global_batch}: no multiple of {micro} pieces x {world} "
                "ranks",
                "change --global_batch or --micro_batch",
            )
    return micro, accumulation
