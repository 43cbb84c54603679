"""From a built model to its adapter."""

from torch import nn

from mmdfad.registry import LOGIT_ADAPTERS

from .base import LogitModel, NoLogits, adapter_of, head_of, refusal
from .classifiers import ClassifierLogits
from .segmentors import SegmentorLogits

# Reasons by base class, of mmpretrain, mmseg and related packages.
for _names, _reason in {
    ('BaseSelfSupervisor',): 'it learns features without labels and knows no classes; fine-tune it as a classifier',
    ('BaseRetriever',): 'it finds images that resemble an image, and has no classes',
    (
        'Blip2Caption',
        'Blip2Retrieval',
        'Blip2VQA',
        'BlipCaption',
        'BlipGrounding',
        'BlipNLVR',
        'BlipRetrieval',
        'BlipVQA',
        'CLIP',
        'CLIPZeroShot',
        'ChineseCLIP',
        'Flamingo',
        'Llava',
        'MiniGPT4',
        'OFA',
        'Otter',
        'RAM',
        'RAMNormal',
        'RAMOpenset',
    ): 'it relates images to text, and has no classes of its own',
    ('RegressionHead',): 'it gives regression values, not classes',
    ('DepthEstimator', 'VPDDepthHead'): 'it estimates depth, not classes',
    ('BaseDetector', 'Base3DDetector'): 'it is a detector, and its classes belong to boxes',
    ('BasePoseEstimator',): 'it finds keypoints, not classes',
}.items():
    LOGIT_ADAPTERS.register_module(name=list(_names), module=type('NoLogits', (NoLogits,), dict(reason=_reason)))


def as_logits(model: nn.Module) -> LogitModel:
    """Wrap a model in an adapter: that of its class, or else of its head, of its backbone or of its kind.

    Args:
        model (nn.Module): A classifier, or an mmseg segmentor.

    Raises:
        DistillError: If the model has no class logits.
    """
    adapter = _adapter_for(model)
    if adapter is None:
        raise refusal(
            model,
            'expected an image classifier with a classification head, or a segmentor with encode_decode. If it does '
            'have logits, register an adapter of its class in mmdfad.registry.LOGIT_ADAPTERS',
        )
    return adapter(model)


def init_weights(model: nn.Module) -> None:
    """Initialise a model in the way of its adapter.

    Args:
        model (nn.Module): Any model. It is changed in place.
    """
    (_adapter_for(model) or LogitModel).initialise(model)


def _adapter_for(model: nn.Module) -> type[LogitModel] | None:
    for part in (model, head_of(model), getattr(model, 'backbone', None)):
        adapter = adapter_of(part)
        if adapter is not None:
            return adapter
    if hasattr(model, 'encode_decode'):
        return SegmentorLogits
    return ClassifierLogits if hasattr(model, 'head') else None


def detach_auxiliary_heads(model: nn.Module) -> nn.Module | None:
    """Remove the heads of a segmentor that only training on labels uses.

    Distillation gives them no gradients. Without them, rounds are faster.

    Args:
        model (nn.Module): The model. It is changed in place.

    Returns:
        nn.Module | None: The heads, or None if it has none.
    """
    heads = getattr(model, 'auxiliary_head', None)
    if heads is not None:
        model.auxiliary_head = None
    return heads
