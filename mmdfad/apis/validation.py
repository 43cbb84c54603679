"""Validation with real data where there is some, and on noise where there is none."""

import copy
import logging

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from mmdfad.engine.hooks.synthetic import PROBE_SEED
from mmdfad.utils import DistillError

PROBE_SIZE = 1024


def ensure_validation(cfg: Config) -> None:
    """Make sure that the validation of a distillation can run.

    If the config has no validation data, or they are not on this machine, the agreement of student and teacher on
    images that the generator makes of ``PROBE_SIZE`` fixed noise vectors is measured instead, as ``agreement``.

    Args:
        cfg (Config): A distillation, changed in place.
    """
    loader = cfg.get('val_dataloader')
    if loader is not None:
        reason = _why_not(loader.dataset, cfg.get('default_scope'))
        if reason is None:
            return
        print_log(
            f'No validation data ({reason}): validating by the agreement with the teacher on generated images',
            'current',
            logging.WARNING,
        )
    generator, noise = cfg.model.generator, cfg.train_dataloader
    cfg.val_dataloader = ConfigDict(
        batch_size=min(noise.batch_size, PROBE_SIZE),
        num_workers=0,
        dataset=dict(type='mmdfad.NoiseDataset', noise_dim=generator.noise_dim, seed=PROBE_SEED, length=PROBE_SIZE),
        sampler=dict(type='mmdfad.NoiseSampler'),
    )
    cfg.val_evaluator = ConfigDict(type='mmdfad.AgreementMetric')
    cfg.val_cfg = ConfigDict()
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('save_best'):
        checkpoint.update(save_best='agreement', rule='greater')


def _why_not(dataset: dict, scope: str | None) -> str | None:
    """Why a dataset cannot be built, or None if it can."""
    try:
        with DefaultScope.overwrite_default_scope(scope):
            built = DATASETS.build(copy.deepcopy(dataset))
            if hasattr(built, 'full_init'):
                built.full_init()
    except DistillError:
        raise
    except (OSError, RuntimeError, AssertionError) as error:
        return f'{dataset.get("type")}: {error}'.splitlines()[0]
    return None
