"""A student of the teacher's own architecture, narrower."""

from collections.abc import Callable, Iterator

from mmengine.config import Config
from mmengine.registry import MODELS

from mmdfad.utils import DistillError

# From a backbone's config and the ratio of widths to its changed settings and to what becomes of a number of channels
# that it gives to the head.
Shrink = Callable[[dict, float], tuple[dict, Callable[[int], int]]]


def shrink(plain: Config, ratio: float) -> dict[str, object]:
    """Make a model narrower: every width times ``ratio``, which costs about its square of the multiply-adds.

    Args:
        plain (Config): The model's plain config, from :func:`~mmdfad.models.players.plain_config`.
        ratio (float): Between 0 and 1. Attention keeps the size of its heads and gets fewer of them.

    Returns:
        dict[str, object]: ``cfg_options`` for that config.

    Raises:
        DistillError: If the backbone, the neck or a head is not one of the known, or cannot be any narrower.
    """
    if not 0 < ratio < 1:
        raise DistillError(f'--student auto:RATIO takes a ratio of widths between 0 and 1, but found {ratio}')
    backbone = plain.model.get('backbone') or {}
    with MODELS.switch_scope_and_registry(plain.default_scope) as registry:
        backbone = with_settings(backbone, registry)
    changes, channels = _known(_BACKBONES, backbone, 'backbone')(backbone, ratio)
    options = {f'model.backbone.{key}': value for key, value in changes.items()}
    for where, part in _parts(plain.model):
        inputs, widths = _known(_PARTS, part, where)
        options.update({f'{where}.{key}': _map(channels, part[key]) for key in inputs if part.get(key)})
        options.update({f'{where}.{key}': _narrow(part[key], ratio) for key in widths if part.get(key)})
    return options


def _narrow(width: int, ratio: float) -> int:
    """Times ratio: to a multiple of 8 as far as it has 16 channels left."""
    narrowed = width * ratio
    return max(1, round(narrowed / 8) * 8 if narrowed >= 16 else round(narrowed))


def _resnet(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    base = cfg.get('base_channels', 64)
    stem, narrowed = _narrow(cfg.get('stem_channels', 64), ratio), _narrow(base, ratio)
    return dict(stem_channels=stem, base_channels=narrowed), lambda c: c * narrowed // base


def _mobilenet_v2(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    old = cfg.get('widen_factor', 1.0)
    new = old * ratio

    def width(channels: int, factor: float) -> int:
        if channels == 1280:  # the last convolution of mmpretrain's, which is only ever wider
            return int(channels * max(factor, 1))
        rounded = max(8, int(channels * factor + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * factor else rounded

    widths = {width(c, old): width(c, new) for c in (16, 24, 32, 64, 96, 160, 320, 1280)}
    return dict(widen_factor=new), lambda c: widths[c]


def _convnext(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    arch = cfg['arch']
    widths = {c: _narrow(c, ratio) for c in arch['channels']}
    return dict(arch=dict(arch, _delete_=True, channels=list(widths.values()))), lambda c: widths[c]


def _vit(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    arch = cfg.get('arch', cfg)  # mmseg's has the settings among its arguments
    old, new = arch['num_heads'], _fewer_heads(arch['num_heads'], ratio)
    changes = dict(num_heads=new, embed_dims=arch['embed_dims'] * new // old)
    if arch is not cfg:
        changes['feedforward_channels'] = arch['feedforward_channels'] * new // old
        changes = dict(arch=dict(arch, _delete_=True, **changes))
    return changes, lambda c: c * new // old


def _swin(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    arch = cfg.get('arch', cfg)
    old, new = arch['num_heads'][0], _fewer_heads(arch['num_heads'][0], ratio)
    heads = [h * new // old for h in arch['num_heads']]
    changes = dict(num_heads=heads, embed_dims=arch['embed_dims'] * new // old)
    return dict(arch=dict(arch, _delete_=True, **changes)) if arch is not cfg else changes, lambda c: c * new // old


def _mit(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    narrowed = _narrow(cfg['embed_dims'], ratio)
    return dict(embed_dims=narrowed), lambda c: c * narrowed // cfg['embed_dims']


def _fewer_heads(heads: int, ratio: float) -> int:
    fewer = max(1, int(heads * ratio + 0.5))
    if fewer == heads:
        raise DistillError(
            f'--student auto:{ratio} leaves all of the {heads} attention heads of the backbone, which is what its '
            'width goes by; take a smaller ratio, or name a config of your own with --student'
        )
    return fewer


_BACKBONES: dict[str, Shrink] = dict(
    ResNet=_resnet,
    ResNetV1c=_resnet,
    ResNetV1d=_resnet,
    ResNet_CIFAR=_resnet,
    MobileNetV2=_mobilenet_v2,
    ConvNeXt=_convnext,
    VisionTransformer=_vit,
    DistilledVisionTransformer=_vit,
    SwinTransformer=_swin,
    MixVisionTransformer=_mit,
)
# What a neck or a head says of the channels that it is given, and of those that are its own.
_PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = dict(
    GlobalAveragePooling=((), ()),
    LinearClsHead=(('in_channels',), ()),
    VisionTransformerClsHead=(('in_channels',), ('hidden_dim',)),
    DeiTClsHead=(('in_channels',), ('hidden_dim',)),
    MultiLevelNeck=(('in_channels', 'out_channels'), ()),
    Feature2Pyramid=(('embed_dim',), ()),
    ASPPHead=(('in_channels',), ('channels',)),
    DepthwiseSeparableASPPHead=(('in_channels', 'c1_in_channels'), ('channels', 'c1_channels')),
    PSPHead=(('in_channels',), ('channels',)),
    FCNHead=(('in_channels',), ('channels',)),
    UPerHead=(('in_channels',), ('channels',)),
    SegformerHead=(('in_channels',), ('channels',)),
)


def _known(table: dict, part: dict, where: str) -> object:
    name = str(part.get('type')).rpartition('.')[2]
    if name not in table:
        raise DistillError(
            f'--student auto:RATIO does not know how to make {where}={name} narrower. It knows the backbones '
            f'{", ".join(_BACKBONES)}, and the necks and heads {", ".join(_PARTS)}; for others name a config of your '
            'own with --student'
        )
    return table[name]


def with_settings(backbone: dict, registry: object) -> dict:
    """The backbone's config with the settings that the name of its architecture stands for."""
    arch = backbone.get('arch')
    if not isinstance(arch, str):
        return backbone
    cls = registry.get(backbone['type'])
    zoo = getattr(cls, 'arch_zoo', None) or getattr(cls, 'arch_settings', {})
    settings = zoo.get(arch.lower(), zoo.get(arch))
    return {**backbone, 'arch': dict(settings)} if isinstance(settings, dict) else backbone


def _parts(model: dict) -> Iterator[tuple[str, dict]]:
    """Neck and heads, each with its dotted key."""
    for key in ('neck', 'head', 'decode_head', 'auxiliary_head'):
        part = model.get(key)
        if isinstance(part, list):
            yield from ((f'model.{key}.{i}', p) for i, p in enumerate(part))
        elif part:
            yield f'model.{key}', part


def _map(channels: Callable[[int], int], value: int | list[int]) -> int | list[int]:
    return channels(value) if isinstance(value, int) else [channels(v) for v in value]
