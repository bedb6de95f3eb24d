"""Models of which torch lacks a derivative, or whose examples are coupled."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention within an encoder: on a CPU without dropout a fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.attend, self.head = nn.Linear(8, 24), Attend(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(self.qkv(x)).mean(1))


class Attend(nn.Module):
    def forward(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Distances(nn.Module):
    """`torch.cdist`: neither a double backward nor a forward-mode rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x[:, :, None], x[:, :, None]).flatten(1)


class Transcribed(nn.Module):
    """`ctc_loss`: neither."""

    def forward(self, x: Tensor) -> Tensor:
        scores = x.log_softmax(1).expand(4, *x.shape)
        targets, lengths = torch.ones(len(x), 2, dtype=torch.int64), (len(x),)
        losses = F.ctc_loss(scores, targets, torch.full(lengths, 4), torch.full(lengths, 2), reduction="none")
        return losses[:, None].expand(len(x), 3)


class Bagged(nn.Module):
    """`embedding_bag` by inputs that are the table: neither."""

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding_bag(torch.arange(len(x))[:, None], x, mode="max")


class Zeta(nn.Module):
    """Not even a first derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.zeta(x.exp() + 1.5, 2.0)


class Sampled(nn.Module):
    """`grid_sample`: no forward-mode rule."""

    def forward(self, x: Tensor) -> Tensor:
        picture = torch.arange(25.0, dtype=x.dtype).view(1, 1, 5, 5).expand(len(x), 1, 5, 5)
        return F.grid_sample(picture, x.view(-1, 3, 1, 2).tanh(), align_corners=False).flatten(1)


class Once(torch.autograd.Function):
    """Marked @once_differentiable; with a forward-mode rule."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * 2

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:  # type: ignore[override]
        return t * 2


class Untold(torch.autograd.Function):
    """Without a forward-mode rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * 2


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x).tanh()  # type: ignore[union-attr]


class Counting(nn.Module):
    """Returns something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class MinusMean(nn.Module):
    """Examples coupled in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return (z - z.mean(0)).tanh()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(11, 6), nn.Embedding(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.words(x) + self.places.weight[: x.shape[1]]).tanh().mean(1))
