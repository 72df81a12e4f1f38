"""A run of any task, from its settings to its end: join the ranks, check everything together, make
the model, find the checkpoint to go on from, say what is about to happen, train."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from data.errors import InputError
from trainer.checkpoints import find, lost, run_folder
from trainer.checkpoints.run_folder import with_provenance, write_run_files
from trainer.checkpoints.save import checkpoint_bytes, disk_use, require_space
from trainer.checkpoints.weights import read_run_config
from trainer.engine.agreement import check_agreement
from trainer.engine.config import RunConfig
from trainer.engine.loop import train
from trainer.engine.plan import make_plan, verify_shards
from trainer.engine.resume import check_resume, check_task
from trainer.engine.task import Plan, Task
from trainer.ranks.ranks import Ranks, broadcast_object, check_hostfile, start_ranks, together
from trainer.ranks.stopping import ORPHANED


@dataclass(frozen=True)
class Start:
    """What `prepare` made and checked; `resume_from` is (tag, marker) or None."""

    plan: Plan
    model: nn.Module
    ranks: Ranks
    resume_from: tuple[str, dict] | None


@dataclass(frozen=True)
class Finished:
    """A run that trained. `stopped_by`: what asked it to stop before its last step, or ""."""

    plan: Plan
    ranks: Ranks
    stopped_by: str

    @property
    def whole(self) -> bool:
        """Whether this is the first rank, and the run got to its end."""
        return self.ranks.first and not self.stopped_by

    def end(self) -> None:
        """Mark the run's orderly end; not where its launcher died, which nobody asked for."""
        if self.ranks.first and self.stopped_by != ORPHANED:
            run_folder.mark_end(self.plan.run, self.stopped_by or "finished")


def run_task(task: Task, config: RunConfig) -> Finished:
    """Check, build, resume and train. The caller reports and then calls `end`. InputError, on all
    ranks, for whatever does not fit."""
    start = prepare(task, config)
    stopped_by = train(start.plan, start.model, start.ranks, start.resume_from)
    if start.ranks.first and stopped_by:
        print("to go on from there, start the same command again", flush=True)
    return Finished(start.plan, start.ranks, stopped_by)


def prepare(task: Task, config: RunConfig) -> Start:
    """Everything before the first step; an InputError on any rank stops all."""
    check_hostfile()
    ranks = start_ranks(config.timeout_s)
    check_agreement(config, ranks)
    config = task.ready(config, ranks)
    with together(ranks):
        plan = make_plan(config, task, ranks.world)
    first_sha256 = broadcast_object(plan.manifest.sha256, ranks)
    with together(ranks):
        if plan.manifest.sha256 != first_sha256:
            raise InputError(
                f"{config.shards}: this node's shards are not those of the first rank's node",
                "copy the same shard folder to every node",
            )
    verify_shards(plan, ranks)
    found = _find_start(plan, ranks)
    task.open(plan, ranks, found is None)
    _open_run(plan, ranks, found)
    with together(ranks):
        model = task.build_model(plan, found is None, _say if ranks.first else _silent)
    with together(ranks):
        if ranks.first:
            require_space(plan.run, _checkpoint_bytes(plan, model))
    _announce(plan, model, found, ranks)
    return Start(plan, model, ranks, found)


def _find_start(plan: Plan, ranks: Ranks) -> tuple[str, dict] | None:
    """The checkpoint to go on from, if any; the run's folder is locked from here on."""
    with together(ranks):
        if ranks.first:
            run_folder.take(plan.run)
    found, passed = find.last_complete(plan.run, ranks)
    goes_on = False
    with together(ranks):
        if ranks.first:
            if (plan.run / "config.json").exists():
                read_run_config(plan.run)  # whether it is a run of these commands
            goes_on = lost.find_start(
                plan.run, found and find.step_of(found[0]), passed, find.tag_of,
                resume=plan.config.resume, restart_lost=plan.config.restart_lost,
            )  # fmt: skip
            if goes_on:
                check_task(plan.run, read_run_config(plan.run), plan.task.name)
    return found if broadcast_object(goes_on, ranks) else None


def _open_run(plan: Plan, ranks: Ranks, found: tuple[str, dict] | None) -> None:
    """Refuse to go on as another experiment; a new run's folder gets its files."""
    with together(ranks):
        if ranks.first and found:
            old, new = read_run_config(plan.run), with_provenance(plan.run, plan.as_dict())
            check_resume(plan.run, old, new, *found, ranks.world, type(plan.config))
        elif ranks.first:
            write_run_files(plan.run, plan.as_dict())
            lost.record(plan.run, [])
        if ranks.first:
            run_folder.mark_begin(plan.run)


def _say(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    """What the other ranks say."""


def _checkpoint_bytes(plan: Plan, model: nn.Module) -> int:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return checkpoint_bytes(parameters, plan.deepspeed.get("bf16", {}).get("enabled", False))


def _announce(plan: Plan, model: nn.Module, found: tuple[str, dict] | None, ranks: Ranks) -> None:
    if not ranks.first:
        return
    shards = plan.task.training(plan.manifest)
    windows = sum(shard.samples for shard in shards)
    montages = len({shard.montage for shard in shards})
    datasets = ", ".join(sorted({shard.dataset for shard in shards}))
    epochs = plan.config.steps * plan.global_batch / windows
    print(
        f"model    {plan.task.summary(model, plan)}\n"
        f"data     {plan.config.shards}: {windows} training windows in {len(shards)} shards, "
        f"{montages} montages, {datasets}\n"
        f"batch    {plan.micro} x {plan.accumulation} accumulation x {ranks.world} ranks = "
        f"{plan.global_batch} windows a step; {plan.config.steps} steps = {epochs:.1f} epochs\n"
        f"disk     {disk_use(plan.run, plan.config, _checkpoint_bytes(plan, model))}\n"
        f"run      {plan.run}: " + (f"going on from {found[0]}" if found else "new"),
        flush=True,
    )
