"""The network behind the shipped models: a residual CNN over time with squeeze-and-excitation in its late stages.

    (record, lead, time) ── stem ── stages ── pool ──► embedding (record, feature) ── head ──► logits (record, label)

Convolutions run as `Conv2d` on (record, channel, 1, time): OpenVINO and TensorRT are faster with it than with
`Conv1d`, which they wrap into reshapes. Batch normalisation follows each convolution and folds into it.
"""

import torch
from torch import Tensor, nn

__all__ = ["Network", "gflop_per_ecg"]


class Network(nn.Module):
    """float32 (record, lead, time) -> logits (record, label), embedding (record, feature)."""

    def __init__(
        self,
        *,
        n_leads: int,
        n_labels: int,
        widths: list[int],
        depths: list[int],
        kernel: int,
        stem_kernel: int,
        squeezed: list[bool],
        dropout: float,
        stem_stride: int = 2,
    ) -> None:
        """Build it with random weights.

        `widths` are the channels of the stem, then of each stage; each stage halves the rate, and the stem divides it
        by `stem_stride`; `depths` are the residual blocks of each stage; `squeezed` says of each stage whether its
        blocks weigh their channels, which costs most where the time axis is long; `dropout` is the share of features
        hidden from the head in training.

        Raises:
            ValueError: there are not as many depths and choices of squeezing as stages.
        """
        super().__init__()
        if not len(widths) - 1 == len(depths) == len(squeezed):
            raise ValueError(
                f"{len(widths)} widths, {len(depths)} depths, {len(squeezed)} squeezed, expected n+1, n, n"
            )
        self.stem = nn.Sequential(_convolution(n_leads, widths[0], kernel=stem_kernel, stride=stem_stride), nn.ReLU())
        blocks: list[nn.Module] = []
        for n_in, n_out, depth, is_squeezed in zip(widths, widths[1:], depths, squeezed, strict=False):
            for index in range(depth):
                first = index == 0
                blocks.append(
                    Block(
                        n_in if first else n_out,
                        n_out,
                        kernel=kernel,
                        stride=2 if first else 1,
                        is_squeezed=is_squeezed,
                    )
                )
        self.stages = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * widths[-1], n_labels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stages(self.stem(x.unsqueeze(2)))  # (record, channel, 1, time)
        embedding = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return self.head(self.dropout(embedding)), embedding


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int, is_squeezed: bool) -> None:
        super().__init__()
        self.first = _convolution(n_in, n_out, kernel=kernel, stride=stride)
        self.second = _convolution(n_out, n_out, kernel=kernel, stride=1)
        self.squeeze = Squeeze(n_out) if is_squeezed else nn.Identity()
        # Averaging before a 1x1 convolution lets the shortcut see every sample, not every other one.
        self.shortcut = (
            nn.Identity()
            if stride == 1 and n_in == n_out
            else nn.Sequential(
                nn.AvgPool2d((1, stride), (1, stride), ceil_mode=True, count_include_pad=False),
                _convolution(n_in, n_out, kernel=1, stride=1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(self.second(torch.relu(self.first(x))))
        return torch.relu(y + self.shortcut(x))


class Squeeze(nn.Module):
    """Each channel times a weight in 0..1 drawn from all channels' means (squeeze-and-excitation)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(n_channels, n_channels // 8, 1)
        self.widen = nn.Conv2d(n_channels // 8, n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.widen(torch.relu(self.narrow(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(weight)


def gflop_per_ecg(network: Network, *, n_leads: int, n_samples: int) -> float:
    """Billions of operations that one ECG costs: two for each multiplication of a convolution or the head."""
    operations = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations
        weight = layer.get_parameter("weight")
        operations += 2 * output[0].numel() * weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, n_leads, n_samples))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return operations / 1e9


def _convolution(n_in: int, n_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, (1, kernel), stride=(1, stride), padding=(0, kernel // 2), bias=False),
        nn.BatchNorm2d(n_out),
    )
