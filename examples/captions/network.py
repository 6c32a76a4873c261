"""The network: a picture becomes the first state of a GRU, which says the words."""

import torch
from torch import Tensor, nn

from examples.captions.scenes import SIZE, WORDS

_HIDDEN = 80
_BOTTLENECK = 40
_EMBEDDED = 16


class Captioner(nn.Module):
    """Word ids `[batch, time]` and pictures `[batch, SIZE, SIZE]` in; logits of the next word,
    `[batch, time, words]`.

    The picture is read in `encoder` alone. Exported, that becomes the initial-state network, which
    the server runs once when a session is opened; a step of the stream runs none of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (SIZE // 2) ** 2, _BOTTLENECK),
            nn.ReLU(),
            nn.Linear(_BOTTLENECK, _HIDDEN),
            nn.Tanh(),
        )
        self.embedding = nn.Embedding(len(WORDS), _EMBEDDED)
        self.gru = nn.GRU(_EMBEDDED, _HIDDEN, batch_first=True)
        self.head = nn.Linear(_HIDDEN, len(WORDS))

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        first = self.encoder(picture.unsqueeze(1)).unsqueeze(0)  # [layers, batch, hidden]
        hidden, _ = self.gru(self.embedding(x), first)
        logits: Tensor = self.head(hidden)
        return logits


@torch.no_grad()
def captions(network: Captioner, pictures: Tensor, longest: int) -> Tensor:
    """The most probable words, `[batch, longest]`, one by one from `START`, in torch alone."""
    words = torch.full((len(pictures), 1), WORDS.index("<start>"))
    for _ in range(longest):
        following = network(words, pictures)[:, -1].argmax(-1, keepdim=True)
        words = torch.cat([words, following], dim=1)
    return words[:, 1:]
