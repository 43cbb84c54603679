"""Classifiers from outside OpenMMLab: torchvision's, timm's, or your own."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.state_dict import strip_model_prefix

__all__ = ['TorchClassifier']


@MODELS.register_module()
class TorchClassifier(BaseModel):
    """Wraps any torch module that turns images into class logits as a classifier of OpenMMLab.

    mmpretrain's metrics and inferencers take its predictions. mmpretrain itself need not be installed. Its state dict
    is that of the plain module, so checkpoints load both ways.

    Args:
        factory (str): The callable that makes the module: ``'torchvision.models:resnet18'``, or one in a file:
            ``'my/nets.py:resnet32'``.
        kwargs (dict, optional): Its arguments.
        data_preprocessor (dict, optional): ``mean`` and ``std`` of the images, in units of 0..255, and ``to_rgb``.
            OpenMMLab loads BGR images, so models of RGB images need ``to_rgb=True``. You can also give a preprocessor
            with the ``type`` of another package. Defaults to images as they are loaded.
        init_cfg (dict, optional): How to initialise the weights. Defaults to the weights that the factory gives.

    Raises:
        DistillError: If the factory is not found, or does not make a module.
    """

    def __init__(
        self,
        factory: str,
        kwargs: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        cfg = dict(data_preprocessor or {})
        if 'type' not in cfg:
            cfg.pop('num_classes', None)  # of a config for mmpretrain
            cfg.update(type='mmengine.ImgDataPreprocessor', bgr_to_rgb=cfg.pop('to_rgb', False))
        super().__init__(cfg, init_cfg)
        self.model = _find(factory)(**(kwargs or {}))
        if not isinstance(self.model, nn.Module):
            raise DistillError(f'{factory} must make a torch.nn.Module, but made a {type(self.model).__name__}')
        self.register_state_dict_post_hook(strip_model_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[BaseDataElement]:
        """Logits, a loss, or predictions.

        Args:
            inputs (Tensor): Normalised images [N, C, H, W].
            data_samples (Sequence[BaseDataElement], optional): One for each image, with ``gt_label`` [1] for the loss.
            mode (str): ``'tensor'``, ``'loss'`` or ``'predict'``.

        Returns:
            Tensor | dict[str, Tensor] | list[BaseDataElement]: By mode: logits [N, K]; the cross-entropy as ``loss``;
            or the samples with ``pred_score`` [K] and ``pred_label`` [1].
        """
        logits = self.model(inputs)
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, torch.cat([sample.gt_label for sample in data_samples])))
        samples = data_samples or [BaseDataElement() for _ in inputs]
        for sample, scores in zip(samples, logits.float().softmax(1), strict=True):
            sample.set_field(scores, 'pred_score')
            sample.set_field(scores.argmax(0, keepdim=True), 'pred_label')
        return list(samples)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Logits [N, K]. mmpretrain's get_flops.py and benchmarks call it."""
        return self.model(inputs)


def _find(factory: str) -> Any:
    """Import the callable of ``module:name`` or ``file.py:name``."""
    where, colon, name = factory.rpartition(':')
    if not colon:
        raise DistillError(f"factory must be 'package.module:callable' or 'file.py:callable', but found {factory!r}")
    try:
        return getattr(_run_file(where) if where.endswith('.py') else import_module(where), name)
    except (ImportError, OSError, AttributeError) as error:
        raise DistillError(f'cannot find factory={factory!r}: {type(error).__name__}: {error}') from error


def _run_file(path: str) -> ModuleType:
    spec = spec_from_file_location(f'mmdfad_factory_{Path(path).stem}', path)
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def _add_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Add ``model.`` to the names of a state dict before it is loaded."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[f'{prefix}model.{key.removeprefix(prefix)}'] = state_dict.pop(key)
