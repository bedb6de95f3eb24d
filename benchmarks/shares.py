"""Which operations a step of LeNet-5 spends its time in: plain and with SpectReg, by torch.profiler on one thread.

python benchmarks/shares.py [steps]
"""

import sys

import torch
from _configurations import SUBJECTS, configurations
from torch.profiler import ProfilerActivity, profile

from gradreg.study.steps import TrainingStep

MOST = 8


def main(steps: int = 100) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subject = SUBJECTS["lenet5"]
    x, y = subject.data("cpu", None)
    convolutions: dict[str, float] = {}
    for name in ("plain", "SpectReg"):
        found = configurations(subject.outputs, formats=[True], patterns=[name])
        total = next(configuration.total for configuration in found if configuration.name == name)
        step = TrainingStep(subject.make("cpu"), x, y, total, channels_last=True)
        for _ in range(10):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(steps):
                step()
        spent = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
        whole = sum(event.self_cpu_time_total for event in spent)
        own = sum(event.self_cpu_time_total for event in spent if "convolution" in event.key)
        convolutions[name] = own / steps / 1000
        print(f"{name}: {whole / steps / 1000:.1f} ms a step, of which {own / whole:.0%} in convolutions")
        for event in spent[:MOST]:
            print(f"  {event.self_cpu_time_total / whole:5.1%} {event.key}")
    print(f"convolutions with SpectReg over plain: {convolutions['SpectReg'] / convolutions['plain']:.2f}x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
