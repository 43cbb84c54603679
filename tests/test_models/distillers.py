"""What the tests of distillers share."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict
from mmengine.registry import DefaultScope

from mmdfad.engine import DistillOptimWrapperConstructor
from mmdfad.models import AdversarialDistiller
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


def build_distiller(cfg: Config, **changes) -> tuple[AdversarialDistiller, OptimWrapperDict]:
    """A distiller in train mode, and its optimizers. ``changes`` are as in ``build_runner``, and change ``cfg``."""
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        distiller = MODELS.build(copy.deepcopy(cfg.model)).train()
        optim_cfg = {k: v for k, v in cfg.optim_wrapper.items() if k != 'constructor'}
        return distiller, DistillOptimWrapperConstructor(optim_cfg)(distiller)


def assert_refused(cfg: Config, message: str, **changes) -> None:
    """A distiller of this config ends with this message."""
    with pytest.raises(DistillError, match=message):
        build_distiller(cfg, **changes)


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def noise_for(count: int = 8, seed: int = 1) -> torch.Tensor:
    """Noise [count, 16] for the tiny generators."""
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def multi_label(**changes) -> dict:
    """Changes that give the tiny classifiers heads with a sigmoid for each class."""
    head = dict(type='MultiLabelLinearClsHead', num_classes=5, _delete_=True)
    return dict(
        model__teacher__head=dict(head, in_channels=64),
        model__student__head=dict(head, in_channels=32),
        model__teacher__checkpoint=None,
        model__allow_random_teacher=True,
        **changes,
    )
