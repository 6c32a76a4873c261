"""Network for captions: a picture becomes the initial state of a GRU that generates the words."""

import torch
from torch import Tensor, nn

from examples.captions.scenes import SIZE, WORDS

_HIDDEN = 80
_BOTTLENECK = 40
_EMBEDDED = 16


class Captioner(nn.Module):
    """Ids `[batch, time]` and pictures `[batch, SIZE, SIZE]` in; logits `[batch, time, words]` out.

    Only `encoder` reads the picture. The export turns the encoder into the initial-state network,
    run once at the open of a session. Steps do not run the encoder.
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
