"""What each penalty costs, beside a plain step, the textbook recipe and the floating-point operations it needs.

A step is a forward pass, loss, penalty, backward pass, a step of Adam (fused) and zero_grad, on fixed random data. All
configurations of a model run in one process, in turn: each repeat makes every step once. A lazy penalty makes a whole
period of steps and counts their mean. The tables give

- the median in milliseconds, with quartiles;
- its ratio to the plain step of the same memory format, and to the fastest plain step of either format;
- the latter of the least times in place of the medians, which others on the machine disturb least;
- the floor: the least floating-point operations relative to a plain step, 2.0 for a row by double backward;
- how many times that floor the step takes, reckoned from the fastest plain step;
- the peak of memory that lives during a step, relative to the plain step of the same format (gradreg._peak).

For example: `python benchmarks/overhead.py --models lenet5 resnet --threads 1 2 --json overhead.json`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
from _configurations import SUBJECTS, configurations, parameters
from _processes import compare
from _recipes import has_peer

from gradreg.study.environment import environment
from gradreg.study.steps import Measured, Row, measure

HEAD = "| step | format | ms | quartiles | of plain | of fastest plain | by least times | floor | of floor | memory |"
RULE = "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"


def parser() -> argparse.ArgumentParser:
    text, _, more = (__doc__ or "").partition("\n\n")
    found = argparse.ArgumentParser(description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    found.add_argument(
        "--configurations", nargs="+", default=["*"], metavar="PATTERN", help="names, as for files: 'SpectReg*'"
    )
    found.add_argument("--threads", nargs="+", type=_positive, default=[1, 2], help="default: 1 2; 1 on cuda")
    found.add_argument("--dtypes", nargs="+", choices=["float32", "bf16"], default=["float32"], help="bf16: autocast")
    found.add_argument("--device", default="cpu", help="cpu, cuda")
    found.add_argument("--repeats", type=_positive, default=15, help="how often each step is timed (default: 15)")
    found.add_argument("--warm", type=_positive, default=3, help="repeats before, which do not count (default: 3)")
    found.add_argument("--batch", type=_positive, help="examples (default: each model's own)")
    found.add_argument("--formats", nargs="+", choices=["contiguous", "channels_last"], help="default: both, of images")
    found.add_argument(
        "--most-outputs", type=_positive, default=10, help="whole Jacobians up to so many outputs (default: 10)"
    )
    found.add_argument("--no-memory", action="store_true", help="leave the peak of memory out")
    found.add_argument(
        "--processes", action="store_true", help="only: steps per second of two processes against one of two threads"
    )
    found.add_argument("--seconds", type=float, default=5.0, help="of each measurement of --processes (default: 5)")
    found.add_argument("--json", type=Path, metavar="FILE", help="all that was measured, with the environment")
    found.add_argument("--list", action="store_true", help="print models and configurations, and end")
    return found


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number >= 1")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.list:
        print_list()
        return
    check_device(options.device)
    if options.device != "cpu":
        options.threads = [1]
    facts: dict[str, Any] = {
        "command": "benchmarks/overhead.py " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "date": date.today().isoformat(),
        "environment": environment(options.device),
    }
    what = facts["environment"]
    place = what["processor"] if options.device == "cpu" else what["device"]
    print(f"{place}, {what['cores']} cores, torch {torch.__version__}, {facts['date']}, commit {what['commit']}")
    if not has_peer():
        print("jacobian_regularizer is not installed, so that it is left out")
    kind = throughputs if options.processes else tables
    results = kind(options)
    if options.json is not None:
        options.json.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


def check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        raise SystemExit(
            f"error: --device got {device}, which cannot be used here: {error}. Leave it out for the CPU."
        ) from None


def print_list() -> None:
    for name, subject in SUBJECTS.items():
        print(f"{name}: {parameters(subject.make('cpu')):,} parameters, batch {subject.batch} of {subject.shape}")
        print("  " + "; ".join(configuration.name for configuration in configurations(subject.outputs)))


# --- the tables -------------------------------------------------------------------------------------------------------


def tables(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for name in options.models:
        for dtype in options.dtypes:
            for threads in options.threads:
                with using(threads):
                    measured, facts = one_table(name, dtype, threads, options)
                print_table(measured, facts)
                rows = [row.record() for row in measured.rows]
                failed = [{"name": n, "format": f, "reason": why} for (n, f), why in measured.failed.items()]
                found.append({**facts, "rows": rows, "failed": failed})
    return found


def one_table(name: str, dtype: str, threads: int, options: argparse.Namespace) -> tuple[Measured, dict[str, Any]]:
    subject = SUBJECTS[name]
    torch.manual_seed(0)
    model = subject.make(options.device).to(options.device)
    x, y = subject.data(options.device, options.batch)
    wanted = options.formats or ["contiguous", "channels_last"]
    formats = [last for last in subject.formats if ("channels_last" if last else "contiguous") in wanted]
    try:
        chosen = configurations(
            subject.outputs,
            formats=formats or subject.formats,
            patterns=options.configurations,
            most_outputs=options.most_outputs,
        )
    except ValueError as error:
        raise SystemExit(f"error: --configurations: {error}") from None
    measured = measure(
        model,
        x,
        y,
        chosen,
        repeats=options.repeats,
        warm=options.warm,
        bf16=dtype == "bf16",
        memory=not options.no_memory,
    )
    facts = {
        "model": name,
        "parameters": parameters(model),
        "batch": len(x),
        "shape": list(subject.shape),
        "outputs": subject.outputs,
        "dtype": dtype,
        "threads": threads,
        "device": options.device,
        "repeats": options.repeats,
    }
    return measured, facts


@contextmanager
def using(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def print_table(measured: Measured, facts: dict[str, Any]) -> None:
    place = f"{facts['threads']} thread(s)" if facts["device"] == "cpu" else facts["device"]
    print(
        f"\n{facts['model']}: {facts['parameters']:,} parameters, batch {facts['batch']} of {tuple(facts['shape'])}, "
        f"{facts['outputs']} outputs, {facts['dtype']}, {place}, median of {facts['repeats']}\n\n{HEAD}\n{RULE}"
    )
    for row in measured.rows:
        print(line(row))
    for (name, memory_format), reason in measured.failed.items():
        print(f"| {name} | {memory_format} | fails: {reason} ||||||||")
    sys.stdout.flush()


def line(row: Row) -> str:
    numbers = [f"{1000 * row.seconds.median:.2f}", f"{1000 * row.seconds.low:.2f} to {1000 * row.seconds.high:.2f}"]
    numbers += [f"{ratio:.2f}x" for ratio in (row.ratio, row.to_fastest, row.least, row.floor, row.to_floor)]
    return f"| {row.name} | {row.format} | {' | '.join(numbers)} | {f'{row.memory:.2f}x' if row.memory else ''} |"


# --- two processes ----------------------------------------------------------------------------------------------------


def throughputs(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.device != "cpu":
        raise SystemExit(f"error: --processes is about threads of the CPU; leave --device {options.device} out.")
    found = []
    for name in options.models:
        print(f"\n{name}: steps per second of all processes together, medians of 3 (smallest to largest)\n")
        print("| step | format | 2 processes of 1 thread | 1 process of 2 threads |\n|---|---|---:|---:|")
        rows = compare(name, seconds=options.seconds, batch=options.batch)
        for row in rows:
            cells = [
                f"{statistics.median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"
                for values in (row["two_processes"], row["two_threads"])
            ]
            print(f"| {row['name']} | {row['format']} | {' | '.join(cells)} |", flush=True)
        found.append({"model": name, "seconds": options.seconds, "rows": rows})
    return found


if __name__ == "__main__":
    main()
