"""Plain steps and steps with SpectReg: ordinary, as traced graphs, and compiled; interleaved in one process.

A step is a forward pass, loss, penalty and backward pass. On a GPU a compiled step is a CUDA graph. Run, for example:
python benchmarks/compiled.py --device cuda --models lenet5 resnet
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles

import torch
from _configurations import SUBJECTS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr

WAYS = {"ordinary": "", "traced": "eager", "compiled": "inductor"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=["lenet5", "mlp10"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=1, help="timed together; take 20 or so on a GPU")
    parser.add_argument("--formats", nargs="+", choices=["contiguous", "channels_last"], default=["channels_last"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = torch.cuda.get_device_name() if options.device != "cpu" else f"{options.threads} thread(s)"
    for name in options.models:
        for layout in options.formats if len(SUBJECTS[name].shape) == 3 else ["contiguous"]:
            x, y = SUBJECTS[name].data(options.device)
            print(f"{name}, batch {len(x)}, {layout}, {place}, torch {torch.__version__}", flush=True)
            ways = made(name, layout, options.ways, x, y)
            show(timed(ways, options.rounds, options.steps, options.device))


def made(name: str, layout: str, ways: list[str], x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """Each way to do a step, on a copy of the model; compiled ones have run twice."""
    torch.manual_seed(0)
    model = SUBJECTS[name].make(x.device.type).to(x.device)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[str, Callable[[], object]] = {}
    for kind, objective in {
        "plain": gr.Objective(cross_entropy),
        "SpectReg": gr.Objective(cross_entropy, gr.SpectReg(0.03)),
    }.items():
        for way in ways:
            own = copy.deepcopy(model)
            if not WAYS[way]:
                found[f"{kind}, {way}"] = partial(ordinary, objective, own, x, y)
                continue
            step = gr.CompiledObjective(objective, own, backend=WAYS[way], fallback=False)
            step(x, y)
            start = time.perf_counter()
            step(x, y)
            print(f"  {kind}: {way} in {time.perf_counter() - start:.1f} s", flush=True)
            found[f"{kind}, {way}"] = partial(compiled, step, own, x, y)
    return found


def ordinary(objective: gr.Objective, model: nn.Module, x: Tensor, y: Tensor) -> None:
    objective(model, x, y).total.backward()
    model.zero_grad()


def compiled(step: gr.CompiledObjective, model: nn.Module, x: Tensor, y: Tensor) -> None:
    step(x, y)
    model.zero_grad()


def timed(ways: dict[str, Callable[[], object]], rounds: int, steps: int, device: str) -> dict[str, list[float]]:
    """Milliseconds a step, of each round."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 3):
        for way, run in ways.items():
            start = time.perf_counter()
            for _ in range(steps):
                run()
            if device != "cpu":
                torch.cuda.synchronize()
            if number >= 3:
                found[way].append(1000 * (time.perf_counter() - start) / steps)
    return found


def show(times: dict[str, list[float]]) -> None:
    for way, values in times.items():
        kind, _, how = way.partition(", ")
        low, middle, high = quantiles(values, n=4)
        ratio = "" if kind == "plain" else f", {median(values) / median(times[f'plain, {how}']):.2f} of plain, {how}"
        print(f"  {way:20} {middle:8.3f} ms, quartiles {low:.3f} and {high:.3f}{ratio}", flush=True)


if __name__ == "__main__":
    main()
