"""Whether a teacher's weights look trained."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models.network import Network
from mmdfad.utils import first_of
from mmdfad.utils.model import classifier_of, keeps_statistics

NORMS = _BatchNorm | nn.LayerNorm | nn.GroupNorm


def check_weights(teacher: Network, num_classes: int) -> list[str]:
    """Look for weights that no training leaves behind.

    Args:
        teacher (Network): The teacher.
        num_classes (int): Number of its logits.

    Returns:
        list[str]: A sentence or two on each mistake. Networks without norms are not known to be untrained.
    """
    modules = dict(teacher.model.named_modules())
    norms = {name: m for name, m in modules.items() if isinstance(m, NORMS) and m.weight is not None}
    fresh = [name for name, norm in norms.items() if _is_fresh(norm)]
    if fresh and len(fresh) == len(norms):
        return [
            f'the teacher looks untrained: its {len(norms)} normalisation layers are as they were initialised. Give '
            'the checkpoint of the trained model'
        ]
    found = [
        _constant_layers(modules),
        _blind_batch_norms(modules, fresh),
        _untrained_classifier(teacher, modules),
        _other_classes(teacher, num_classes),
    ]
    return [text for text in found if text]


def _constant_layers(modules: dict[str, nn.Module]) -> str | None:
    layers = [
        name
        for name, m in modules.items()
        if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.numel() > 1 and (m.weight == m.weight.flatten()[0]).all()
    ]
    if not layers:
        return None
    return f'all weights of {first_of(layers)} of the teacher are equal, so its checkpoint may be broken'


def _blind_batch_norms(modules: dict[str, nn.Module], fresh: list[str]) -> str | None:
    blind = [name for name in fresh if isinstance(modules[name], _BatchNorm)]
    if not blind:
        return None
    return f'the batch norm {first_of(blind)} of the teacher has never seen an image; its checkpoint may be incomplete'


def _is_fresh(norm: nn.Module) -> bool:
    """Whether a norm is as it was initialised. Some begin with a weight of 0."""
    fresh = bool(((norm.weight == 1) | (norm.weight == 0)).all()) and (norm.bias is None or not norm.bias.any())
    if keeps_statistics(norm):
        fresh = fresh and not norm.running_mean.any() and bool((norm.running_var == 1).all())
    return fresh


def _untrained_classifier(teacher: Network, modules: dict[str, nn.Module]) -> str | None:
    name = classifier_of(teacher.model)
    bias = modules[name].bias
    if bias is None or bias.any():
        return None
    return f'{name} of the teacher gives the logits, but its bias is 0, as in a head that has not been trained'


def _other_classes(teacher: Network, num_classes: int) -> str | None:
    classes = teacher.dataset_meta.get('classes')
    if classes is None or len(classes) == num_classes:
        return None
    return f'the checkpoint of the teacher names {len(classes)} classes, but the teacher has {num_classes} logits'
