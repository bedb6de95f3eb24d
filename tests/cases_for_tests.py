"""What works with which engine: one table, which `test_compatibility` runs cell by cell.

    python tests/cases_for_tests.py

writes the table into docs/compatibility.md.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from models_for_tests import Residual
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import gradreg as gr

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
COLUMNS = ("DoubleBackward", "ForwardMode", "FiniteDifference")
EXACT, DIFFERENCE = 1e-9, 1e-5


@dataclass(frozen=True)
class Equal:
    """The value and the parameter gradient are those of a reference, to a relative error; None: rounding."""

    to: str = "the dense oracle"
    within: float | None = None

    @property
    def word(self) -> str:
        """In a cell."""
        return "equal" if self.within is None else f"within {100 * self.within:g} %"

    @property
    def note(self) -> str:
        """Below the tables; without one, the dense oracle is meant."""
        return (
            "" if self == Equal() else f"{'equal to' if self.within is None else 'off by at most that from'} {self.to}"
        )


@dataclass(frozen=True)
class Refused:
    """An error whose message holds these parts in this order: the cause, then the remedy."""

    cause: str
    remedy: str

    word = "refused"

    @property
    def note(self) -> str:
        """The message's parts."""
        return f'refused: "{self.cause.strip()} ..."; the remedy in the message: "{self.remedy}"'


Outcome = Equal | Refused
Found = tuple[Tensor, Tensor]
"""A penalty's value and its gradient in all parameters."""


@dataclass
class Built:
    """A model with inputs.

    Attributes:
        model, x: what the penalty is called with.
        plain: the same function in operations that can be differentiated twice, for the reference; None: the model.
        slots: of the penalty.
    """

    model: nn.Module
    x: Any
    plain: nn.Module | None = None
    slots: dict[str, Any] = field(default_factory=dict)

    def on(self, device: str) -> "Built":
        """The same on another device."""
        plain = self.plain and self.plain.to(device)
        return Built(self.model.to(device), self.x.to(device), plain, self.slots)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: the row's first column.
        build: makes the model.
        outcomes: for each engine.
        during: the context in which the penalty is taken.
        reference: value and gradient to compare with, from what was built and the engine.
        take: takes the penalty.
        step: of finite differences.
        needs: a package that is not always there.
    """

    name: str
    build: Callable[[], Built]
    outcomes: tuple[Outcome, Outcome, Outcome] = (Equal(), Equal(), Equal())
    during: Callable[[], AbstractContextManager[Any]] = nullcontext
    reference: "Callable[[Built, gr.Engine], Found] | None" = None
    take: "Callable[[Built, gr.Engine], Found] | None" = None
    step: float = 1e-5
    needs: str = ""

    def engine(self, column: int) -> gr.Engine:
        return (gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference(self.step, central=True))[column]

    def found(self, built: Built, column: int) -> Found:
        with self.during():
            return (self.take or frobreg)(built, self.engine(column))

    def expected(self, built: Built, column: int) -> Found:
        return (self.reference or oracle)(built, self.engine(column))


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    """In all parameters that are not frozen, as one vector."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(found, parameters, strict=True)]
    )


def stored(model: nn.Module) -> Tensor:
    """What `backward` has left in the parameters, which are then as before."""
    found = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    model.zero_grad()
    return torch.cat(found)


# --- the penalty, and what it is compared with ------------------------------------------------------------------------


def frobreg(built: Built, engine: gr.Engine) -> Found:
    """FrobReg, which looks at the whole Jacobian and draws nothing; masks of a dropout are those of one seed."""
    torch.manual_seed(9)
    value = gr.FrobReg(1.0, engine=engine, **built.slots)(built.model, built.x)
    return value.detach(), gradient(value, built.model)


def oracle(built: Built, _: gr.Engine) -> Found:
    """By the dense Jacobian, with kernels that can be differentiated twice."""
    model = built.plain or built.model
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        full = gr.dense.jacobian(model, built.x, **built.slots, create_graph=True)
        value = full.square().sum((1, 2)).mean()
        return value.detach(), gradient(value, model)


def oracle_of_the_batch(built: Built, _: gr.Engine) -> Found:
    """By the dense Jacobian of all outputs in all inputs at once, with masks or statistics of the whole batch."""

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(9)
        return built.model(x)

    full: Any = torch.autograd.functional.jacobian(run, built.x, create_graph=True)
    value = full.sum(0).flatten(2).square().sum((0, 2)).mean()  # (B, m, B, n...): rows of all examples together
    return value.detach(), gradient(value, built.model)


def oracle_of_batch_norm(built: Built, engine: gr.Engine) -> Found:
    """As `oracle_of_the_batch` for DoubleBackward; for the others with the statistics of the batch held fixed."""
    if isinstance(engine, gr.DoubleBackward):
        return oracle_of_the_batch(built, engine)
    model = built.model
    assert isinstance(model, Normalized)
    h = model.first(built.x)
    mean, variance = h.mean(0), h.var(0, correction=0)
    full = gr.dense.jacobian(lambda x: model.with_statistics(x, mean, variance), built.x, create_graph=True)
    value = full.square().sum((1, 2)).mean()
    return value.detach(), gradient(value, built.model)


def in_double(built: Built, _: gr.Engine) -> Found:
    """The oracle of a copy in float64."""
    plain = copy.deepcopy(built.model).double()
    value, found = oracle(Built(plain, built.x.double(), slots=built.slots), _)
    return value.float(), found.float()


def in_float32(built: Built, engine: gr.Engine) -> Found:
    """The same penalty with the same engine without autocast."""
    return frobreg(built, engine)


def scaled(built: Built, engine: gr.Engine) -> Found:
    """With a GradScaler, as in training: the optimizer's gradients are unscaled before they are looked at."""
    optimizer, scaler = torch.optim.SGD(built.model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    torch.manual_seed(9)
    value = gr.FrobReg(1.0, engine=engine)(built.model, built.x)
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    return value.detach(), stored(built.model)


def accumulated(built: Built, engine: gr.Engine) -> Found:
    """Two backward passes, of a third and of two thirds of the batch, each weighted by its share."""
    total = torch.zeros((), dtype=built.x.dtype)
    for part in built.x.split([1, 2]):
        share = len(part) / len(built.x) * gr.FrobReg(1.0, engine=engine)(built.model, part)
        share.backward()
        total += share.detach()
    return total, stored(built.model)


LARGEST = 1e-3


def clipped(built: Built, engine: gr.Engine) -> Found:
    """The gradient cut to a largest norm."""
    value = gr.FrobReg(1.0, engine=engine)(built.model, built.x)
    value.backward()
    nn.utils.clip_grad_norm_(built.model.parameters(), LARGEST)
    return value.detach(), stored(built.model)


def oracle_clipped(built: Built, engine: gr.Engine) -> Found:
    value, found = oracle(built, engine)
    return value, found * LARGEST / (found.norm() + 1e-6)


# --- models -----------------------------------------------------------------------------------------------------------


def built(make: Callable[[], nn.Module], kind: str = "image", **more: Any) -> Callable[[], Built]:
    """The same weights and inputs each time, in float64."""

    def build() -> Built:
        torch.manual_seed(1)
        model = make().double()
        shapes = {"image": (3, 1, 8, 8), "sequence": (3, 5, 8), "vector": (3, 8)}
        x = torch.randint(20, (3, 5)) if kind == "words" else torch.randn(shapes[kind], dtype=torch.float64)
        return Built(model, x, **more)

    return build


def single(build: Callable[[], Built]) -> Callable[[], Built]:
    """In float32."""

    def of() -> Built:
        made = build()
        return Built(made.model.float(), made.x.float(), slots=made.slots)

    return of


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))


def cnn(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *between, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def frozen_batch_norm() -> nn.Module:
    model = Residual(nn.BatchNorm2d)
    with torch.no_grad():
        model(torch.randn(32, 1, 8, 8))
    return model.eval()


class Normalized(nn.Module):
    """One batch normalization, and what it does written out."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = checkpoint(self.norm, h, use_reentrant=False) if self.checkpointed else self.norm(h)
        return self.last(torch.tanh(h))

    def with_statistics(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        h = (self.first(x) - mean) / (variance + self.norm.eps).sqrt()
        return self.last(torch.tanh(h * self.norm.weight + self.norm.bias))


class Recurrent(nn.Module):
    def __init__(self, layers: nn.Module, *, packed: bool = False) -> None:
        super().__init__()
        self.layers, self.head, self.packed = layers, nn.Linear(6, 3), packed

    def forward(self, x: Tensor) -> Tensor:
        if not self.packed:
            return self.head(self.layers(x)[0][:, -1])
        lengths = torch.full((len(x),), 4)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)[0][:, -1])


class Words(nn.Module):
    """Integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layers, self.head = nn.Embedding(20, 8), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens))[0][:, -1])


class Attends(nn.Module):
    """`scaled_dot_product_attention`, called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(2).flatten(1))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class Bert(nn.Module):
    """A model of transformers, made from a configuration."""

    def __init__(self) -> None:
        super().__init__()
        transformers = import_module("transformers")
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=8, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.bert = transformers.BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Any:
        return self.bert(input_ids=tokens)


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Dictionary(OrderedDict):  # type: ignore[type-arg]
    """As the outputs of transformers: a dictionary whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Answers(nn.Module):
    def __init__(self, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.layers, self.kind = mlp(), kind

    def forward(self, x: Tensor) -> Any:
        return self.kind(logits=self.layers(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(torch.tanh(self.layer(x)), self.layer.weight.T))


def partly_frozen() -> nn.Module:
    model = mlp()
    model[1].requires_grad_(False)
    return model


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(8, 8), nn.Linear(8, 3), reentrant
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * ctx.saved_tensors[0].cos()


class Between(nn.Module):
    """A function between two dense layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(8, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def by(function: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]) -> Callable[[], Built]:
    """A function, with the same in other operations for the reference."""

    def build() -> Built:
        made = built(lambda: Between(function), "vector")()
        other = copy.copy(made.model)
        other.function = plain  # type: ignore[assignment]
        return Built(made.model, made.x, other)

    return build


CORNERS = torch.eye(8, dtype=torch.float64)


def distances(x: Tensor) -> Tensor:
    return torch.cdist(x, CORNERS.to(x.device))


def distances_written_out(x: Tensor) -> Tensor:
    return (x[:, None] - CORNERS.to(x.device)).square().sum(2).sqrt()


class Spectrum(nn.Module):
    """Complex numbers within the model."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.fft.rfft(x).abs())


class ComplexOutputs(Spectrum):
    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft(x)
        return torch.complex(self.last(z.real), self.last(z.imag))


def compiled() -> Built:
    torch._dynamo.reset()  # what was compiled before would change the graph
    made = built(mlp)()
    return Built(torch.compile(made.model, backend="aot_eager", dynamic=True), made.x, made.model)  # type: ignore[arg-type]


def donating(donated: bool) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: import_module("torch._functorch.config").patch(donated_buffer=donated)


def channels_last(*between: nn.Module) -> Callable[[], Built]:
    def build() -> Built:
        made = built(lambda: cnn(*between))()
        x = made.x.expand(3, 2, 8, 8)[:, :1].contiguous(memory_format=torch.channels_last)
        return Built(made.model.to(memory_format=torch.channels_last), x)  # type: ignore[call-overload]

    return build


def complex_inputs() -> Built:
    made = built(mlp)()
    return Built(made.model, made.x + 1j)


def double_inputs() -> Built:
    made = built(mlp)()
    return Built(made.model.float(), made.x)


# --- the table --------------------------------------------------------------------------------------------------------


@contextmanager
def math_kernel() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


def autocast(dtype: torch.dtype) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: torch.autocast("cpu", dtype)


def everywhere(outcome: Outcome) -> tuple[Outcome, Outcome, Outcome]:
    return outcome, outcome, outcome


def no_second(operation: str, remedy: str = "Use engine=gr.FiniteDifference()") -> Refused:
    return Refused(f"{operation} has no double backward, which engine=DoubleBackward() needs", remedy)


def no_forward(operation: str, remedy: str = "Use engine=gr.FiniteDifference()") -> Refused:
    return Refused(f"{operation}has no forward-mode rule, which engine=ForwardMode() needs", remedy)


FUSED = (
    no_second("attention_for_cpu_backward", "sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"),
    no_forward("attention_for_cpu ", "sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"),
    Equal(),
)
DONATED = Refused("a model compiled by torch.compile gives up buffers", "gr.CompiledObjective")
REENTRANT = Refused("the model checkpoints activations with use_reentrant=True", "use_reentrant=False")
WITH_TANGENTS = Refused(
    "what is run again in the backward pass is not what engine=ForwardMode() ran there",
    "Use engine=gr.DoubleBackward()",
)
WITH_STATISTICS = Refused(
    "what is run again in the backward pass is not what engine=FiniteDifference() ran there: it carried tangents, or "
    "batch statistics held fixed",
    "Use engine=gr.DoubleBackward()",
)
MASK = "the dense oracle with the same mask"
FIXED = Equal("the dense oracle with the statistics held fixed")
COUPLED = Equal("the dense oracle of the whole batch")
LOGITS = {"target": lambda out: out.logits}

CASES: dict[str, tuple[Case, ...]] = {
    "Models": (
        Case("multilayer perceptron", built(mlp)),
        Case("convolutions, ReLU in place, max pooling", built(cnn)),
        Case("group normalization", built(lambda: cnn(nn.GroupNorm(2, 4)))),
        Case("batch normalization, evaluation mode", built(frozen_batch_norm)),
        Case(
            "batch normalization, training mode", built(Normalized, "vector"), (COUPLED, FIXED, FIXED),
            reference=oracle_of_batch_norm,
        ),
        Case(
            "dropout", built(lambda: cnn(nn.Dropout(0.3))), everywhere(Equal(MASK)), reference=oracle_of_the_batch,
        ),
        Case("LSTM", built(lambda: Recurrent(nn.LSTM(8, 6, batch_first=True)), "sequence")),
        Case(
            "LSTM in float32 (oneDNN)", single(built(lambda: Recurrent(nn.LSTM(8, 6, batch_first=True)), "sequence")),
            everywhere(Equal("the dense oracle in float64", 0.01)), reference=in_double, step=0.03,
        ),
        Case("GRU", built(lambda: Recurrent(nn.GRU(8, 6, batch_first=True)), "sequence")),
        Case(
            "GRU of packed sequences",
            built(lambda: Recurrent(nn.GRU(8, 6, batch_first=True), packed=True), "sequence"),
            (Equal(), no_forward("_pack_padded_sequence "), Equal()),
        ),
        Case(
            "token ids, at the input", built(Words, "words"),
            everywhere(Refused("x has dtype torch.int64", 'site=gr.Hidden("embedding")')),
        ),
        Case('token ids, `site=gr.Hidden("embedding")`', built(Words, "words", slots={"site": gr.Hidden("embedding")})),
        Case("`scaled_dot_product_attention`", built(Attends, "sequence"), FUSED),
        Case("the same, math kernel", built(Attends, "sequence"), during=math_kernel),
        Case("`nn.MultiheadAttention`", built(SelfAttention, "sequence"), FUSED),
        Case("the same, math kernel", built(SelfAttention, "sequence"), during=math_kernel),
        Case("`nn.TransformerEncoder`", built(Encoder, "sequence"), FUSED),
        Case("the same, math kernel", built(Encoder, "sequence"), during=math_kernel),
        Case(
            "BERT of transformers, at its embeddings",
            built(Bert, "words", slots={"site": gr.Hidden("bert.bert.embeddings"), **LOGITS}), FUSED,
            needs="transformers",
        ),
        Case(
            "the same, math kernel", built(Bert, "words", slots={"site": gr.Hidden("bert.bert.embeddings"), **LOGITS}),
            during=math_kernel, needs="transformers",
        ),
        Case("outputs in a dataclass, `target=lambda out: out.logits`", built(lambda: Answers(Answer), slots=LOGITS)),
        Case("outputs in a dictionary, likewise", built(lambda: Answers(Dictionary), slots=LOGITS)),
        Case("tied weights", built(Tied, "vector")),
        Case("frozen parameters", built(partly_frozen)),
        Case("complex numbers within the model", built(Spectrum, "vector")),
        Case(
            "complex outputs", built(ComplexOutputs, "vector"),
            everywhere(Refused("the target has dtype torch.complex128", "target=lambda z: torch.view_as_real(z)")),
        ),
        Case(
            "the same, `target=torch.view_as_real`",
            built(ComplexOutputs, "vector", slots={"target": torch.view_as_real}),
        ),
        Case(
            "an operation without second derivative (`cdist`)", by(distances, distances_written_out),
            (no_second("_cdist_backward"), no_forward("_cdist_forward "), Equal()),
        ),
        Case(
            "an `autograd.Function` marked once_differentiable", by(Once.apply, torch.sin),  # type: ignore[arg-type]
            (no_second("Once"), no_forward(""), Equal()),
        ),
    ),
    "Settings": (
        Case(
            "autocast, bfloat16", single(built(mlp)), everywhere(Equal("float32", 0.02)), reference=in_float32,
            during=autocast(torch.bfloat16), step=0.5,
        ),
        Case(
            "the same, convolutions, ReLU, max pooling", single(built(cnn)),
            (Equal("float32", 0.05), Equal("float32", 0.05), Equal("float32", 0.15)), reference=in_float32,
            during=autocast(torch.bfloat16), step=1.0,
        ),
        Case(
            "autocast, float16, GradScaler", single(built(mlp)), everywhere(Equal("float32", 0.01)), take=scaled,
            reference=in_float32, during=autocast(torch.float16), step=0.5,
        ),
        Case("gradient accumulation", built(mlp), take=accumulated),
        Case("gradient clipping", built(mlp), take=clipped, reference=oracle_clipped),
        Case("channels last", channels_last()),
        Case(
            "channels last, dropout", channels_last(nn.Dropout(0.3)), everywhere(Equal(MASK)),
            reference=oracle_of_the_batch,
        ),
        Case("activation checkpointing", built(Checkpointed, "vector"), (Equal(), WITH_TANGENTS, Equal())),
        Case(
            "the same, with dropout", built(lambda: Checkpointed(dropout=0.3), "vector"),
            (Equal(MASK), WITH_TANGENTS, Equal(MASK)), reference=oracle_of_the_batch,
        ),
        Case(
            "the same, batch normalization in training mode",
            built(lambda: Normalized(checkpointed=True), "vector"), (COUPLED, WITH_TANGENTS, WITH_STATISTICS),
            reference=oracle_of_batch_norm,
        ),
        Case(
            "activation checkpointing, use_reentrant=True", built(lambda: Checkpointed(reentrant=True), "vector"),
            everywhere(REENTRANT),
        ),
        Case("`torch.compile(model)`", compiled, everywhere(DONATED), during=donating(True)),
        Case(
            "the same, `donated_buffer = False`", compiled,
            (no_second("a model compiled by torch.compile", "gr.CompiledObjective"), Equal(), Equal()),
            during=donating(False),
        ),
        Case(
            "complex inputs", complex_inputs,
            everywhere(Refused("x has dtype torch.complex128", "torch.view_as_real(x)")),
        ),
        Case(
            "float64 inputs, float32 model", double_inputs,
            everywhere(
                Refused("these are torch.float64, the parameters torch.float32", "Write x.to(torch.float32)")
            ),
        ),
    ),
}  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- written by python tests/cases_for_tests.py -->\n", "<!-- until here -->\n"


def tables() -> str:
    """All rows and what their numbers stand for."""
    from parallel_for_tests import SETTINGS

    rows = {part: [(case.name, case.outcomes) for case in cases] for part, cases in CASES.items()}
    rows["Two processes"] = [(name, setting.outcomes) for name, setting in SETTINGS.items()]
    notes: dict[str, int] = {}
    lines = []
    for part, cells in rows.items():
        lines += [f"| {part} | {' | '.join(f'`{name}`' for name in COLUMNS)} |", "|---|---|---|---|"]
        for name, outcomes in cells:
            words = [
                outcome.word + (f" [{notes.setdefault(outcome.note, len(notes) + 1)}]" if outcome.note else "")
                for outcome in outcomes
            ]
            lines.append(f"| {name} | {' | '.join(words)} |")
        lines.append("")
    lines += [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """A page with the tables in their place."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2]


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))


if __name__ == "__main__":
    # By this module's importable name, as the other modules of tests know it.
    from cases_for_tests import main as imported

    imported()
