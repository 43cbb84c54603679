"""Adapters of classifiers: mmpretrain's, and plain modules."""

import torch
from torch import Tensor, nn

from mmdfad.registry import LOGIT_ADAPTERS
from mmdfad.utils.state_dict import strip_model_prefix

from .base import LogitModel, NoLogits, adapter_of, refusal


@LOGIT_ADAPTERS.register_module(name='TorchClassifier')
class ClassifierLogits(LogitModel):
    """A classifier that gives plain logits, as most do."""

    ndim = 2

    def __init__(self, model: nn.Module) -> None:
        if getattr(model, 'head', model) is None:
            raise refusal(model, 'it has no classification head; set `head` in its config')
        super().__init__(model)

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self.model(images, mode='tensor')


@LOGIT_ADAPTERS.register_module(name=['HuggingFaceClassifier', 'TimmClassifier'])
class ForeignLogits(ClassifierLogits):
    """Models of timm and Hugging Face, with the names of the plain module in the state dict.

    mmpretrain's own hook gives them these names only outside of other modules.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        model._state_dict_hooks.clear()
        model.register_state_dict_post_hook(strip_model_prefix)


@LOGIT_ADAPTERS.register_module(name='MultiLabelClsHead')
class MultiLabelLogits(ClassifierLogits):
    """A sigmoid for each class. An image may have several labels, or none."""

    multi_label = True


@LOGIT_ADAPTERS.register_module(name='ConformerHead')
class ConformerLogits(ClassifierLogits):
    """The sum of the convolutional and the transformer branch, as in the model's predictions."""

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        return sum(super().raw_logits(images))


@LOGIT_ADAPTERS.register_module(name=['DeiTClsHead', 'LeViTClsHead'])
class DistilledTransformerLogits(ClassifierLogits):
    """The mean of class and distillation token. In train mode, mmpretrain warns (DeiT) or raises an error (LeViT)."""

    eval_modules = ('head',)


@LOGIT_ADAPTERS.register_module(name='ArcFaceClsHead')
class ArcFaceLogits(ClassifierLogits):
    """Scaled cosines, without the margin that depends on labels. The head computes them in fp32."""

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        features = self.model.extract_feat(images)[-1].float()
        with torch.autocast(images.device.type, enabled=False):
            return self.model.head((features,))


@LOGIT_ADAPTERS.register_module(name='MultiTaskHead')
class SingleTaskLogits(ClassifierLogits):
    """A multi-task head with one task. With several tasks, no class logits stand for the model."""

    def __init__(self, model: nn.Module) -> None:
        tasks = model.head.task_heads
        if len(tasks) != 1:
            raise refusal(
                model,
                f'it has {len(tasks)} tasks ({", ".join(tasks)}), and no class logits that stand for all; distil a '
                'model with the head of one task',
            )
        super().__init__(model)
        (head,) = tasks.values()
        adapter = adapter_of(head) or ClassifierLogits
        if issubclass(adapter, NoLogits):
            raise refusal(model, f'in its task, {adapter.reason}')
        self.multi_label = adapter.multi_label

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        (logits,) = super().raw_logits(images).values()
        return logits


@LOGIT_ADAPTERS.register_module(name='InceptionV3')
class InceptionLogits(ClassifierLogits):
    """Without the auxiliary branch. Only training on labels uses it."""

    eval_modules = ('backbone',)
    unused_modules = ('backbone.AuxLogits',)


@LOGIT_ADAPTERS.register_module(name='LeNet5')
class LeNetLogits(ClassifierLogits):
    """mmpretrain's LeNet drops the batch dimension if the batch is one image."""

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        return super().raw_logits(images).reshape(images.shape[0], -1)


@LOGIT_ADAPTERS.register_module(name='ViTEVA02')
class RotaryLogits(ClassifierLogits):
    """EVA-02 changes its rotary embeddings with the image size. They are restored, so that its state dict stays."""

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        rope = self.model.backbone.rope
        own = rope.patch_resolution, rope.freqs_cos, rope.freqs_sin
        try:
            return super().raw_logits(images)
        finally:
            rope.patch_resolution, rope.freqs_cos, rope.freqs_sin = own
