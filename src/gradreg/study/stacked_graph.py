"""Steps of a stack as CUDA graphs: recorded once, replayed with new positions and new random numbers.

A small network's step is some hundred kernels of microseconds, which the processor launches slower than the GPU runs
them; a graph launches them all at once. The random projections are drawn outside, on the CPU, by each run's own
generator, as in any other step, and copied into the memory that the graph reads. Dropout masks are drawn within it, by
generators that the graph moves on.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from gradreg import _random
from gradreg._random import Draw
from gradreg.study.stacked_model import RandomState

Result = TypeVar("Result")
Step = Callable[[Tensor], Result]
Drawn = Sequence[tuple[Draw, Generator]]


class Numbers:
    """The random numbers of a step: one flat tensor of each dtype on the device, and the draws as views of them.

    Args:
        drawn: what the step draws, and from which generator, in order.
        device: where it wants them.
    """

    def __init__(self, drawn: Drawn, device: torch.device):
        self._drawn = [(replace(draw, device=generator.device), generator) for draw, generator in drawn]
        self.draws = [draw for draw, _ in drawn]
        sizes: dict[torch.dtype, int] = {}
        begins = []
        for draw in self.draws:
            begins.append(sizes.get(draw.dtype, 0))
            sizes[draw.dtype] = begins[-1] + math.prod(draw.shape)
        self._flat = {dtype: torch.empty(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        self.views = [
            self._flat[draw.dtype][begin : begin + math.prod(draw.shape)].view(draw.shape)
            for draw, begin in zip(self.draws, begins, strict=True)
        ]

    def fill(self) -> None:
        """Draws the numbers of the next step."""
        new: dict[torch.dtype, list[Tensor]] = {}
        for draw, generator in self._drawn:
            new.setdefault(draw.dtype, []).append(draw.numbers(generator).flatten())
        for dtype, parts in new.items():
            self._flat[dtype].copy_(torch.cat(parts))


@dataclass
class _Recorded:
    """A step that can be replayed."""

    graph: Any
    index: Tensor
    numbers: Numbers
    result: Any


class StepGraphs:
    """Takes steps, by graphs from the second of each kind on.

    Args:
        device: a GPU.
        stream: on which all steps are taken: torch goes on using the stream where a gradient was first summed.
        states: whose generators of the GPU the steps draw from.
    """

    def __init__(self, device: torch.device, stream: Any, states: Sequence[RandomState]):
        self.device, self.stream, self.states = device, stream, states
        self._drawn: dict[Hashable, Drawn] = {}
        self._recorded: dict[Hashable, _Recorded] = {}
        self.refused = ""
        self._failed: Any = None

    def take(self, kind: Hashable, step: Step[Result], index: Tensor) -> Result:
        """A step.

        Args:
            kind: what is fixed in a graph besides the shapes.
            step: takes positions of examples on the GPU; draws random numbers from CPU generators in the same order
                each time.
            index: the positions, on the CPU.

        Returns:
            What ``step`` returned; its tensors are overwritten by the next step.
        """
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            result = self._take(kind, step, index)
        outside.wait_stream(self.stream)
        return result

    def forget(self) -> None:
        """Frees the graphs; what they read and wrote has changed."""
        self._drawn.clear()
        self._recorded.clear()

    def _take(self, kind: Hashable, step: Step[Result], index: Tensor) -> Result:
        if kind not in self._drawn and not self.refused:
            with _random.recorded() as drawn:
                result = step(index.to(self.device))
            self._drawn[kind] = drawn
            return result
        if not self.refused and kind not in self._recorded:
            self._try(kind, step, index)
        if self.refused:  # outside of the handling of the error, which would keep the memory of the attempt
            return step(index.to(self.device))
        found = self._recorded[kind]
        found.index.copy_(index)
        found.numbers.fill()
        found.graph.replay()
        return found.result

    def _try(self, kind: Hashable, step: Step[Any], index: Tensor) -> None:
        """Records a step, or notes why that cannot be done; the random states are then as before."""
        backs = [state.snapshot() for state in self.states]
        default = RandomState(self.device)
        graph = torch.cuda.CUDAGraph()
        try:
            self._recorded[kind] = self._record(graph, self._drawn[kind], step, index)
        except RuntimeError as error:
            for back in backs:
                back()
            default.install()
            self._failed = graph  # torch's allocator goes on referring to it
            self.forget()
            self.refused = str(error.__context__ or error).partition("\n")[0] or type(error).__name__
            print(f"steps are not replayed as CUDA graphs: {self.refused}")

    def _record(self, graph: Any, drawn: Drawn, step: Step[Any], index: Tensor) -> _Recorded:
        for state in self.states:
            graph.register_generator_state(state.gpu)
        static, numbers = index.to(self.device), Numbers(drawn, self.device)
        torch.cuda.synchronize(self.device)
        with torch.cuda.graph(graph, stream=self.stream), _random.handed_out(numbers.draws, numbers.views):
            result = step(static)
        return _Recorded(graph, static, numbers, result)
