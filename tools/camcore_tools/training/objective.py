"""What is minimised: cross-entropy, and where asked for ReCAM's second loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from camcore_torch.recam import ReCam
from torch import Tensor, nn
from torch.nn import functional

from camcore.errors import InputError
from camcore_tools.training.networks import load_trainable_state, trainable_state
from camcore_tools.training.settings import Settings

__all__ = ["RECAM_PREFIX", "Objective"]

RECAM_PREFIX = "recam."


class Objective(nn.Module):
    """The network, and what is only there to train it.

    Parameters
    ----------
    network : nn.Module
    settings : Settings
        ``label_smoothing``, ``seed`` and what is about ReCAM are used.
    example : (n, 3, H, W) Tensor
        Images as the network takes them; ReCAM looks for the head on them.
    """

    def __init__(self, network: nn.Module, settings: Settings, example: Tensor) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.recam = None if settings.recam is None else _recam(network, settings, example)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to minimise, the cross-entropy of the labels as they are, and ReCAM's loss, 0 where there is none.

        The second one compares with the loss of validation pictures, which knows no smoothing either.
        """
        if self.recam is None:
            scores, second = self.network(images), torch.zeros((), device=images.device)
        else:
            scores, second = self.recam.scores_and_loss(images, labels)
        plain = functional.cross_entropy(scores.float(), labels)
        if not self.settings.label_smoothing:
            return plain + self.settings.recam_weight * second, plain, second
        smoothed = functional.cross_entropy(scores.float(), labels, label_smoothing=self.settings.label_smoothing)
        return smoothed + self.settings.recam_weight * second, plain, second

    @property
    def model(self) -> nn.Module:
        """What is to be explained and shipped: the network, with ReCAM's second classifier where there is one."""
        return self.network if self.recam is None else self.recam

    def behind(self, part: nn.Module, features: Tensor) -> Objective:
        """The same for the features that the last part of the network reads; its weights are these."""
        twin = Objective(part, self.settings, features)
        if twin.recam is not None and self.recam is not None:
            twin.recam.recam_weight = self.recam.recam_weight
        return twin

    def learned(self) -> dict[str, Tensor]:
        """What training changes: the network's under its own names, and ``recam.`` ..."""
        return trainable_state(self.network) | self._own()

    def _own(self) -> dict[str, Tensor]:
        """The weights of the second classifier; those of the network are in there too and are left out."""
        theirs = {id(p) for p in self.network.parameters()}
        named = () if self.recam is None else self.recam.named_parameters()
        return {RECAM_PREFIX + name: p for name, p in named if id(p) not in theirs}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what :meth:`learned` gave.

        Raises
        ------
        InputError
            If it is of another network, or of a training without the same second loss.
        """
        own = self._own()
        second = {name: t for name, t in tensors.items() if name.startswith(RECAM_PREFIX)}
        wrong = [n for n in {**own, **second} if n not in own or n not in second or own[n].shape != second[n].shape]
        if wrong:
            raise InputError(f"the checkpoint is of a training with another second loss: {wrong[0]} does not fit")
        load_trainable_state(self.network, {name: t for name, t in tensors.items() if name not in second})
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(second[name])


def _recam(network: nn.Module, settings: Settings, example: Tensor) -> ReCam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ReCam(network, example=example, variant=settings.recam or "class", normalization=settings.recam_mask)
