"""`segzoo submit`: submit trainings and evaluations to SLURM, and show their status."""

import argparse
import contextlib
import datetime
import itertools
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError

from .command import command
from .parser import CommandLine, path_value, whole_number

EXAMPLES = """
examples:
  train on four machines with eight GPUs each, for up to three times two days:
    %(prog)s --nodes 4 --gpus-per-node 8 --partition gpu --time 2-00 --requeues 2 -- \\
        --config-file panoptic/coco/maskformer_swin_tiny
  only print the script:
    %(prog)s --dry-run --gpus-per-node 8 -- --config-file ...
  three configurations, as an array:
    %(prog)s --gpus-per-node 8 --array a.yaml b.yaml c.yaml -- SOLVER.MAX_ITER 20000
  two values for each of two keys, four runs, two at a time:
    %(prog)s --gpus-per-node 8 --at-once 2 --sweep SOLVER.BASE_LR 1e-4 2e-4 --sweep SEED 1 2 -- \\
        --config-file ...
  evaluate with eight processes, with one result:
    %(prog)s --gpus-per-node 8 -- --eval-only --config-file ... MODEL.WEIGHTS model_final.pth
  show the status; follow the log:
    %(prog)s --status JOBDIR
    %(prog)s --status JOBDIR --watch
  without SLURM: in background processes of this machine; in this process:
    %(prog)s --cluster local --tasks-per-node 2 -- --config-file ... MODEL.DEVICE cpu
    %(prog)s --cluster debug -- --config-file ...

The job runs on a copy of the code and the configuration in JOBDIR/snapshot: later edits do not change it.
Results go to JOBDIR/output or OUTPUT_DIR, in an array to a folder for each run. When its time is up (SIGUSR2)
or it is preempted (SIGTERM), a run saves a checkpoint, is requeued and resumes from it; scancel (SIGTERM)
ends it with a checkpoint, from which --resume continues.
"""

TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)")
# submitit's runner starts a job on this machine at most six times.
MAX_LOCAL_REQUEUES = 5


def build_parser() -> CommandLine:
    """Return the parser of the job's options; those of the training follow `--`."""
    parser = CommandLine(
        "submit",
        description="Submit trainings and evaluations to SLURM, and show their status.",
        usage="%(prog)s [options] -- --config-file FILE [options of a training]\n"
        "       %(prog)s --status JOBDIR [--watch]",
        epilog=EXAMPLES,
    )
    size = parser.add_argument_group("resources of a run")
    size.add_argument("--nodes", type=whole_number(1), default=1, metavar="N", help="machines (default 1)")
    size.add_argument(
        "--gpus-per-node", type=whole_number(0), default=0, metavar="N", help="GPUs, each with a process"
    )
    size.add_argument(
        "--tasks-per-node", type=whole_number(1), metavar="N", help="processes, on machines without GPUs"
    )
    size.add_argument("--cpus-per-task", type=whole_number(1), metavar="N", help="CPU cores of each process")
    size.add_argument("--mem", metavar="SIZE", help="memory of each machine, such as 64G; 0 for all of it")
    size.add_argument(
        "--time",
        default="1-00",
        metavar="TIME",
        help="time limit: minutes, MM:SS, HH:MM:SS, D-HH or D-HH:MM:SS (default 1-00, a day)",
    )
    site = parser.add_argument_group("cluster")
    for flag in ("--partition", "--account", "--qos", "--constraint", "--comment"):
        site.add_argument(flag, metavar="X", help="passed to sbatch")
    site.add_argument(
        "--cluster",
        choices=("slurm", "local", "debug"),
        default="slurm",
        help="local: background processes on this machine; debug: in this process (default slurm)",
    )
    site.add_argument(
        "--job-dir",
        type=path_value,
        metavar="DIR",
        help="a new folder that all machines can access (default output/jobs/...)",
    )
    site.add_argument("--name", help="name of the job (default: that of the configuration)")
    requeueing = parser.add_argument_group("requeueing")
    requeueing.add_argument(
        "--requeues",
        type=whole_number(0),
        default=3,
        metavar="N",
        help="how often a run may be requeued when its time is up (default 3)",
    )
    requeueing.add_argument(
        "--signal-delay",
        type=whole_number(1),
        default=120,
        metavar="SECONDS",
        help="time before its limit at which a run is told to save a checkpoint (default 120)",
    )
    arrays = parser.add_argument_group("job arrays")
    arrays.add_argument(
        "--array", nargs="+", default=[], metavar="CONFIG", help="a run for each configuration"
    )
    arrays.add_argument(
        "--sweep",
        nargs="+",
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="a run for each value; repeat it for all combinations of several keys",
    )
    arrays.add_argument(
        "--at-once",
        type=whole_number(1),
        default=256,
        metavar="N",
        help="maximum number of runs of an array at a time, on SLURM (default 256)",
    )
    monitoring = parser.add_argument_group("monitoring")
    monitoring.add_argument("--dry-run", action="store_true", help="only print the script for sbatch")
    monitoring.add_argument("--watch", action="store_true", help="follow the log until the end")
    monitoring.add_argument(
        "--status", type=path_value, metavar="JOBDIR", help="show the status of a submitted job"
    )
    parser.add_rest()
    parser.add_check(check_options)
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError for impossible values; turn --time into minutes."""
    if options.status is not None:
        return
    if not options.rest and not options.array:
        raise InputError(
            "the options of the training are missing; give them after --: "
            "segzoo submit [options] -- --config-file FILE"
        )
    options.rest = options.rest or []
    if options.gpus_per_node and options.tasks_per_node not in (None, options.gpus_per_node):
        raise InputError(
            f"--tasks-per-node {options.tasks_per_node} with --gpus-per-node {options.gpus_per_node}: "
            "there is a process for each GPU; leave --tasks-per-node out"
        )
    if options.mem is not None and not re.fullmatch(r"\d+[KMGTkmgt]?", options.mem):
        raise InputError(f"--mem {options.mem}: expected a number with K, M, G or T, as 64G; 0 for all")
    options.time = minutes(options.time)
    if options.time * 60 <= options.signal_delay:
        raise InputError(
            f"--signal-delay {options.signal_delay} is not shorter than --time ({options.time} min): no time "
            "would be left to train"
        )
    if options.cluster != "slurm" and options.nodes > 1:
        raise InputError(
            f"--nodes {options.nodes} with --cluster {options.cluster}: there is one machine here"
        )
    if options.cluster == "local" and options.requeues > MAX_LOCAL_REQUEUES:
        raise InputError(
            f"--requeues {options.requeues} with --cluster local: at most {MAX_LOCAL_REQUEUES} here"
        )
    if options.cluster == "debug" and (options.array[1:] or options.sweep):
        raise InputError("--cluster debug starts one run, in this process; leave out --array and --sweep")


def minutes(text: str) -> int:
    """Return a time in one of SLURM's notations as minutes, rounded up.

    Raises:
        InputError: another notation, or zero.
    """
    match = TIME.fullmatch(text)
    if not match:
        raise InputError(f"--time {text}: expected minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS")
    days, *parts = (int(part) if part else None for part in match.groups())
    if days is not None:
        hours, more_minutes, seconds = (part or 0 for part in parts[:3])
    else:
        given = [part for part in parts[3:] if part is not None]
        # 90 and 90:00 are minutes; three numbers begin with hours.
        hours, more_minutes, seconds = given if len(given) == 3 else (0, *given, 0)[:3]
    total = ((days or 0) * 24 + hours) * 60 + more_minutes + (seconds > 0)
    if total == 0:
        raise InputError(f"--time {text}: must be at least a minute")
    return total


def run(options: argparse.Namespace) -> int:
    """Submit runs or show their status; return the exit status, 1 if a watched run has failed."""
    if options.status is None:
        status = submit_runs(options)
        if status or not options.watch or options.dry_run or options.cluster == "debug":
            return status
    from .submission.status import run_statuses, table
    from .submission.watch import watch

    folder = job_folder_of(options)
    if options.watch:
        return watch(folder)
    print(table(run_statuses(folder)))
    return 0


def submit_runs(options: argparse.Namespace) -> int:
    """Submit the runs, or print what would be submitted; return the exit status."""
    # Imported here, since they need torch and --status does not.
    from .submission.executors import sbatch_script, submit
    from .submission.files import Job, log_folder, write_job
    from .submission.job import TrainingJob
    from .submission.plan import freeze, make_room, plan_runs
    from .submission.snapshot import take_snapshot

    options.job_dir = folder = job_folder(options)
    runs = plan_runs(options.rest, options.array, options.sweep, folder)
    options.name = options.name or (runs[0].name if len(runs) == 1 else "sweep")
    if options.dry_run:
        if options.cluster == "slurm":
            print(sbatch_script(options, folder, runs))
        for one in runs:
            print(f"# {one.name}: {command_line('train', *one.arguments)}")
        return 0
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    log_folder(folder).mkdir(parents=True)
    try:
        count, commit = take_snapshot(folder / "snapshot")
        for one in runs:
            freeze(one, folder / "snapshot")
        for done in make_room(runs):
            print(done)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        job = Job(options.cluster, now, [sys.argv[0], *options.words], os.getcwd(), commit, runs)
        if options.cluster == "debug":
            runs[0].job_id = str(os.getpid())
            write_job(folder, job)
            return TrainingJob(folder, runs[0], 0, options.tasks_per_node or options.gpus_per_node or 1).run()
        submit(options, folder, runs)
    except BaseException:
        # Nothing was submitted: the same command can be given again.
        if made and not any(one.job_id for one in runs):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another job has been submitted there meanwhile
                for parent in made[1:]:
                    parent.rmdir()
        raise
    write_job(folder, job)
    print(
        summary(options, folder, runs, f"{count} files{f' at {commit[:8]}{commit[40:]}' if commit else ''}")
    )
    return 0


def job_folder(options: argparse.Namespace) -> Path:
    """Return the absolute path of a folder that is empty or does not exist yet.

    Raises:
        InputError: --job-dir is not empty.
    """
    if options.job_dir is None:
        now = datetime.datetime.now()
        name = options.name or (Path(options.array[0]).stem if len(options.array) == 1 else "job")
        named = Path("output", "jobs", f"{now:%Y%m%d_%H%M%S}_{name}").absolute()
        # Several jobs may be submitted in one second.
        numbered = (named.with_name(f"{named.name}_{number}") for number in itertools.count(2))
        return next(path for path in itertools.chain([named], numbered) if not path.exists())
    folder = options.job_dir.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remedy = f"; --status {options.job_dir} shows its job" if (folder / "job.json").is_file() else ""
        raise InputError(f"--job-dir {options.job_dir} is not empty; choose a new folder{remedy}")
    return folder


def summary(options: argparse.Namespace, folder: Path, runs: Sequence, snapshot: str) -> str:
    """Return the message on a submitted job."""
    from .submission.files import log_file

    main_id = runs[0].job_id.partition("_")[0]
    cancel = (
        f"scancel {main_id}" if options.cluster == "slurm" else "kill " + " ".join(r.job_id for r in runs)
    )
    tasks = options.nodes * (options.tasks_per_node or options.gpus_per_node or 1)
    each = f"{tasks} {'task' if tasks == 1 else 'tasks'} on {options.nodes} node{'s' * (options.nodes > 1)}"
    limit = datetime.timedelta(minutes=options.time)
    parts = [
        f"submitted job {main_id}: {len(runs)} run{'s' * (len(runs) > 1)}, {each}, time limit {limit}, "
        f"{options.requeues} requeues",
        f"  snapshot  {folder / 'snapshot'} ({snapshot})",
    ]
    for one in runs:
        parts += [f"  {one.name}", f"    log     {log_file(folder, one)}", f"    output  {one.output}"]
    near = folder.is_relative_to(Path.cwd())
    status = command_line("submit", "--status", folder.relative_to(Path.cwd()) if near else folder)
    parts += [
        f"  status  {status}",
        f"  follow  {status} --watch",
        f"  cancel  {cancel}",
    ]
    return "\n".join(parts)


def job_folder_of(options: argparse.Namespace) -> Path:
    return (options.status or options.job_dir).absolute()


main = command(build_parser, run)
