"""Config files and checkpoints of plain models, for tests that start from these."""

from pathlib import Path

import torch
from conftest import TINY, TINY_SEG
from mmengine.config import Config

from mmdfad.models.build import build_model, plain_config

# A backbone that takes images of 32x32 only.
SWIN = dict(
    _delete_=True,
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]),
    img_size=32,
    patch_size=2,
    window_size=8,
    out_indices=(1,),
)


def write_tiny(folder: Path, role: str, scope: str = 'mmpretrain', pixels: int | None = 16, **changes) -> Path:
    """Write a config with a network of a tiny distillation, changed.

    Args:
        folder: Where to write it.
        role: 'teacher' or 'student'.
        scope: 'mmpretrain' for a classifier, 'mmseg' for a segmentor.
        pixels: Size of the images in its test pipeline. None leaves the pipeline out.
        changes: Settings of the model, with double underscores for dots.
    """
    model = Config.fromfile(TINY_SEG if scope == 'mmseg' else TINY).model[role]
    model.pop('checkpoint', None)
    content = Config(dict(model=model, default_scope=scope))
    content.merge_from_dict({f'model.{key.replace("__", ".")}': value for key, value in changes.items()})
    if pixels is not None:
        content.test_dataloader = dict(dataset=dict(pipeline=[dict(type='ResizeEdge', scale=pixels)]))
    path = folder / f'{role}_{len(list(folder.iterdir()))}.py'
    path.write_text(f'{content.pretty_text}\n')
    return path


def save_untrained(config: str | Path, path: Path) -> Path:
    """Save the initial weights of a plain model."""
    torch.manual_seed(0)
    torch.save(build_model(plain_config(dict(cfg_path=str(config)), 'teacher'), 'teacher').state_dict(), path)
    return path
