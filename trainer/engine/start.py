"""What pretraining and fine-tuning do before the first step: join the ranks, check everything
together, make the model, find the checkpoint to go on from, and say what is about to happen."""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import InputError
from model.autoencoder import MaskedVAE
from model.config import ModelConfig, with_new_fields
from trainer.checkpoints import checkpoint, lock, lost
from trainer.checkpoints.provenance import with_provenance, write_run_files
from trainer.checkpoints.save import checkpoint_bytes, disk_use, require_space
from trainer.checkpoints.weights import load_state, read_run_config
from trainer.engine.agreement import check_agreement
from trainer.engine.config import RunConfig
from trainer.engine.plan import Plan, make_plan, verify_shards
from trainer.engine.resume import check_resume
from trainer.ranks.ranks import Ranks, broadcast_object, check_hostfile, start_ranks, together
from trainer.ranks.stopping import ORPHANED


@dataclass(frozen=True)
class Start:
    """Everything `trainer.engine.loop.train` needs; `resume_from` is (tag, marker) or None."""

    plan: Plan
    model: MaskedVAE
    ranks: Ranks
    resume_from: tuple[str, dict] | None

    def end(self, stopped_by: str) -> None:
        """Mark the run's orderly end; not where its launcher died, which nobody asked for."""
        if self.ranks.first and stopped_by != ORPHANED:
            lock.mark_end(self.plan.run, stopped_by or "finished")


def prepare(config: RunConfig, model_config: ModelConfig) -> Start:
    """Everything before the first step; an InputError on any rank stops all."""
    check_hostfile()
    ranks = start_ranks(config.timeout_s)
    check_agreement(config, ranks)
    with together(ranks):
        plan = make_plan(config, model_config, ranks.world)
    first_sha256 = broadcast_object(plan.manifest.sha256, ranks)
    with together(ranks):
        if plan.manifest.sha256 != first_sha256:
            raise InputError(
                f"{config.shards}: this node's shards are not those of the first rank's node",
                "copy the same shard folder to every node",
            )
    verify_shards(plan, ranks)
    found = _find_start(plan, ranks)
    with together(ranks):
        model = initial_model(plan, fresh=found is None, tell=ranks.first)
    with together(ranks):
        if ranks.first:
            require_space(plan.run, _checkpoint_bytes(plan, model))
    _announce(plan, model, found, ranks)
    return Start(plan, model, ranks, found)


def initial_model(plan: Plan, fresh: bool = True, tell: bool = True) -> MaskedVAE:
    """A model with weights drawn from the run's seed, or taken from `--init`; not `fresh`: a
    checkpoint's will replace them, so `--init` is not read and may be gone."""
    model = MaskedVAE(plan.model, plan.config.seed)
    if plan.config.init and fresh:
        state, meta = load_state(plan.config.init)
        for line in check_initial(plan, model, state, meta):
            if tell:
                print(f"init: {line}", flush=True)
        model.load_state_dict(state, strict=meta["part"] == "whole")
    return model


# Another value of these may leave the weights' shapes as they are, and makes nonsense of them.
OF_ENCODER = ("tokens", "sfreq_hz", "patch_samples", "heads")
OF_DECODER = ("decoder_heads", "decoder_input", "baseline")


def check_initial(plan: Plan, model: MaskedVAE, state: dict, meta: dict) -> list[str]:
    """InputError where the weights of `--init` are not this model's; what to tell of them."""
    init, own, theirs = plan.config.init, model.state_dict(), with_new_fields(meta["model"])
    remedy = f"it was trained as {theirs['preset']}: give the same --preset and --model"
    if bad := [n for n, x in state.items() if n not in own or own[n].shape != x.shape]:
        raise InputError(f"--init {init}: {bad[0]} does not fit this model", remedy)
    wanted = [n for n in own if meta["part"] == "whole" or n.startswith("encoder.")]
    if lacking := [name for name in wanted if name not in state]:
        raise InputError(
            f"--init {init}: {len(lacking)} weights are missing, as {lacking[0]}",
            "the file is not whole, or of another version: convert the run again",
        )
    ours = plan.model.as_dict()
    for name in OF_ENCODER + (OF_DECODER if meta["part"] == "whole" else ()):
        if name in theirs and theirs[name] != ours[name]:
            raise InputError(
                f"--init {init}: its {name} is {theirs[name]}, this model's {ours[name]}",
                f"--model {name}={theirs[name]}",
            )
    signal, profile = meta["signal"], plan.manifest.profile
    return [
        f"trained on EEG with {key} {signal[key]}, these shards have {profile[key]}"
        for key in sorted({*signal} & {*profile} - {"name", "window_samples", "window_s"})
        if signal[key] != profile[key]
    ]


def _find_start(plan: Plan, ranks: Ranks) -> tuple[str, dict] | None:
    """The checkpoint to go on from, if any; a new run's folder gets its files."""
    with together(ranks):
        if ranks.first:
            lock.take(plan.run)
    found, passed = checkpoint.last_complete(plan.run, ranks)
    goes_on = False
    with together(ranks):
        if ranks.first:
            if (plan.run / "config.json").exists():
                read_run_config(plan.run)  # whether it is a run of these commands
            goes_on = lost.find_start(
                plan.run, found and checkpoint.step_of(found[0]), passed, checkpoint.tag_of,
                resume=plan.config.resume, restart_lost=plan.config.restart_lost,
            )  # fmt: skip
    found = found if broadcast_object(goes_on, ranks) else None
    with together(ranks):
        if ranks.first and found:
            old, new = read_run_config(plan.run), with_provenance(plan.run, plan.as_dict())
            check_resume(plan.run, old, new, *found, ranks.world)
        elif ranks.first:
            write_run_files(plan.run, plan.as_dict())
            lost.record(plan.run, [])
        if ranks.first:
            lock.mark_begin(plan.run)
    return found


def _checkpoint_bytes(plan: Plan, model: MaskedVAE) -> int:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return checkpoint_bytes(parameters, plan.deepspeed.get("bf16", {}).get("enabled", False))


def _announce(plan: Plan, model: MaskedVAE, found: tuple[str, dict] | None, ranks: Ranks) -> None:
    if not ranks.first:
        return
    shards = plan.manifest.of_split("train")
    windows = sum(shard.samples for shard in shards)
    encoder, decoder = (
        sum(parameter.numel() for parameter in part.parameters()) / 1e6
        for part in (model.encoder, model.decoder)
    )
    montages = len({shard.montage for shard in shards})
    datasets = ", ".join(sorted({shard.dataset for shard in shards}))
    epochs = plan.config.steps * plan.global_batch / windows
    print(
        f"model    {plan.model.preset}: encoder {encoder:.2f} M, decoder {decoder:.2f} M, "
        f"tokens: {plan.model.tokens}, {plan.tokens_per_sample:.0f} a window\n"
        f"data     {plan.config.shards}: {windows} training windows in {len(shards)} shards, "
        f"{montages} montages, {datasets}\n"
        f"batch    {plan.micro} x {plan.accumulation} accumulation x {ranks.world} ranks = "
        f"{plan.global_batch} windows a step; {plan.config.steps} steps = {epochs:.1f} epochs\n"
        f"disk     {disk_use(plan.run, plan.config, _checkpoint_bytes(plan, model))}\n"
        f"run      {plan.run}: " + (f"going on from {found[0]}" if found else "new"),
        flush=True,
    )
