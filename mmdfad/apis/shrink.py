"""A narrower or shallower student with the teacher's architecture."""

import inspect
from collections.abc import Callable, Iterator

from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from mmdfad.utils import DistillError

# Takes a backbone's config and the ratio of widths. Returns the changed settings, and a function from an old number of
# channels for the head to the new one.
Narrow = Callable[[dict, float], tuple[dict, Callable[[int], int]]]
# Takes a backbone's config and the ratio of depths. Returns the changed settings.
Shallow = Callable[[dict, float], dict]


def shrink(plain: Config, width: float = 1, depth: float = 1) -> dict[str, object]:
    """Make a model narrower, shallower or both.

    Args:
        plain (Config): The model's plain config, from :func:`~mmdfad.models.build.plain_config`.
        width (float): Factor of every width. The multiply-adds shrink by about its square. Attention heads keep their
            size, and there are fewer of them. Defaults to 1.
        depth (float): Factor of the number of blocks in each stage of the backbone. Defaults to 1.

    Returns:
        dict[str, object]: ``cfg_options`` for that config.

    Raises:
        DistillError: If a ratio is out of range, or the backbone, the neck or a head is unknown or cannot be any
            smaller.
    """
    if not (0 < width <= 1 and 0 < depth <= 1 and width * depth < 1):
        raise DistillError(
            '--student auto:... takes ratios above 0 and at most 1, at least one of them below 1, but found '
            f'width {width:g} and depth {depth:g}'
        )
    backbone = plain.model.get('backbone') or {}
    with MODELS.switch_scope_and_registry(plain.default_scope) as registry:
        backbone = with_settings(backbone, registry)
    changes = {}
    if depth < 1:
        changes = _known(_SHALLOWER, backbone, 'backbone', 'shallower')(backbone, depth)
    options = {}
    if width < 1:
        narrower = _known(_NARROWER, backbone, 'backbone', 'narrower')
        narrowed, channels = narrower({**backbone, **changes}, width)
        changes |= narrowed
        for where, part in _parts(plain.model):
            inputs, widths = _known(_PARTS, part, where, 'narrower')
            options.update({f'{where}.{key}': _map(channels, part[key]) for key in inputs if part.get(key)})
            options.update({f'{where}.{key}': _narrow(part[key], width) for key in widths if part.get(key)})
    return {f'model.backbone.{key}': value for key, value in changes.items()} | options


def _narrow(width: int, ratio: float) -> int:
    """A width times a ratio: a multiple of 8 if 16 channels or more are left."""
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
        if channels == 1280:  # the last convolution in mmpretrain is never narrower
            return int(channels * max(factor, 1))
        rounded = max(8, int(channels * factor + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * factor else rounded

    widths = {width(c, old): width(c, new) for c in (16, 24, 32, 64, 96, 160, 320, 1280)}
    return dict(widen_factor=new), lambda c: widths[c]


def _convnext(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    widths = {c: _narrow(c, ratio) for c in cfg['arch']['channels']}
    return _with(cfg, dict(channels=list(widths.values()))), lambda c: widths[c]


def _vit(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    arch = cfg.get('arch', cfg)  # in mmseg, the settings are arguments
    old, new = arch['num_heads'], _fewer_heads(arch['num_heads'], ratio)
    changes = dict(num_heads=new, embed_dims=arch['embed_dims'] * new // old)
    if arch is not cfg:
        changes['feedforward_channels'] = arch['feedforward_channels'] * new // old
    return _with(cfg, changes), lambda c: c * new // old


def _swin(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    arch = cfg.get('arch', cfg)
    old, new = arch['num_heads'][0], _fewer_heads(arch['num_heads'][0], ratio)
    heads = [h * new // old for h in arch['num_heads']]
    return _with(cfg, dict(num_heads=heads, embed_dims=arch['embed_dims'] * new // old)), lambda c: c * new // old


def _mit(cfg: dict, ratio: float) -> tuple[dict, Callable[[int], int]]:
    narrowed = _narrow(cfg['embed_dims'], ratio)
    return dict(embed_dims=narrowed), lambda c: c * narrowed // cfg['embed_dims']


def _fewer_heads(heads: int, ratio: float) -> int:
    fewer = max(1, int(heads * ratio + 0.5))
    if fewer == heads:
        raise DistillError(
            f'--student auto:{ratio:g} leaves the backbone all of its {heads} attention heads, and these give its '
            'width; choose a smaller ratio, or give a config of your own with --student'
        )
    return fewer


def _shallow_resnet(cfg: dict, ratio: float) -> dict:
    # Depths with basic blocks, and depths with bottlenecks.
    depths = next((d for d in ((18, 34), (50, 101, 152)) if cfg['depth'] in d), ())
    smaller = [d for d in depths if d < cfg['depth']]
    if not smaller:
        raise _no_shallower(f'a {cfg["type"]} of depth {cfg["depth"]}')
    return dict(depth=min(smaller, key=lambda d: abs(d - cfg['depth'] * ratio)))


def _shallow_stages(key: str, least: int = 1) -> Shallow:
    """Fewer blocks in each stage: a multiple of ``least``."""

    def shallow(cfg: dict, ratio: float) -> dict:
        settings = cfg.get('arch', cfg)
        fewer = [least * max(1, round(blocks * ratio / least)) for blocks in settings[key]]
        if sum(fewer) >= sum(settings[key]):
            raise _no_shallower(f'a {cfg["type"]} with {list(settings[key])} blocks in its stages')
        return _with(cfg, {key: fewer})

    return shallow


def _shallow_vit(cfg: dict, ratio: float) -> dict:
    old = cfg.get('arch', cfg)['num_layers']
    # A head that takes several layers takes as many layers of the student, at the same share of the depth.
    outputs = cfg.get('out_indices', -1)
    new = max(1 if isinstance(outputs, int) else len(outputs), round(old * ratio))
    moved = _map(lambda i: i if i < 0 else -(-(i + 1) * new // old) - 1, outputs)
    if new == old or (not isinstance(outputs, int) and len(set(moved)) < len(outputs)):
        raise _no_shallower(f'a {cfg["type"]} of {old} layers with out_indices={outputs}')
    changes = _with(cfg, dict(num_layers=new))
    return changes if moved == outputs else changes | dict(out_indices=moved)


def _with(cfg: dict, changes: dict) -> dict:
    """Changes of a backbone's settings, which it has in ``arch`` or among its arguments."""
    return dict(arch=dict(cfg['arch'], _delete_=True, **changes)) if 'arch' in cfg else changes


def _no_shallower(what: str) -> DistillError:
    return DistillError(
        f'--student auto:depth=... cannot make {what} shallower by that ratio; choose a smaller one or a ratio of '
        'widths, or give a config of your own with --student'
    )


_NARROWER: dict[str, Narrow] = dict(
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
# MobileNetV2 is not here: its blocks are fixed in its code.
_SHALLOWER: dict[str, Shallow] = dict(
    ResNet=_shallow_resnet,
    ResNetV1c=_shallow_resnet,
    ResNetV1d=_shallow_resnet,
    ResNet_CIFAR=_shallow_resnet,
    ConvNeXt=_shallow_stages('depths'),
    VisionTransformer=_shallow_vit,
    DistilledVisionTransformer=_shallow_vit,
    SwinTransformer=_shallow_stages('depths', least=2),  # pairs of blocks with plain and shifted windows
    MixVisionTransformer=_shallow_stages('num_layers'),
)
# The settings of a neck or a head with the channels of its inputs, and those with its own widths.
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


def _known(table: dict, part: dict, where: str, how: str) -> object:
    name = str(part.get('type')).rpartition('.')[2]
    if name not in table:
        raise DistillError(
            f'--student auto:... cannot make {where}={name} {how}; it can do so for {", ".join(table)}. Give a config '
            'of your own with --student'
        )
    return table[name]


def with_settings(backbone: dict, registry: Registry) -> dict:
    """The backbone's config with its defaults, and with the settings behind the name of its architecture."""
    cls = registry.get(backbone['type'])
    parameters = inspect.signature(cls).parameters.items() if cls else ()
    backbone = {key: p.default for key, p in parameters if p.default is not p.empty} | backbone
    arch = backbone.get('arch')
    if not isinstance(arch, str):
        return backbone
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
