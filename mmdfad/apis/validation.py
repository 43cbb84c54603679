"""Validation on real data, or on generated images if there are none."""

import copy
import logging
from inspect import signature

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS, Registry

from mmdfad.datasets.noise import LOOK_SEED
from mmdfad.utils import DistillError
from mmdfad.utils.config import innermost_dataset, is_noise

PROBE_SIZE = 1024
_KEYS = ('val_dataloader', 'val_evaluator', 'val_cfg')
_METRICS = dict(agreement='AgreementMetric', predicted_agreement='PredictedAgreementMetric')


def ensure_validation(cfg: Config, download: bool = False) -> None:
    """Make sure that the validation of a distillation can run.

    If the config has no validation data, or they are not on this machine, the run validates on generated images. The
    metrics are ``agreement`` and ``predicted_agreement``: the share of images or pixels that student and teacher label
    alike, measured on images of the run's generator, from ``PROBE_SIZE`` fixed noise vectors, and predicted for real
    ones from probe images. A baseline that trains on real images has no use for it and is not validated.

    Args:
        cfg (Config): A distillation, changed in place.
        download (bool): Let the dataset download itself, if it can. Defaults to False.
    """
    missing = _missing_data(cfg, 'val_dataloader', download)
    if missing is None:
        return
    if not is_noise(cfg.train_dataloader.dataset):
        print_log(
            f'No validation data ({missing}), and training uses real images: not validating', 'current', logging.WARNING
        )
        cfg.update(dict.fromkeys(_KEYS))
        return
    if cfg.get('val_dataloader') is not None:
        print_log(
            f'No validation data ({missing}): validating the agreement on generated images', 'current', logging.WARNING
        )
    cfg.val_dataloader = ConfigDict(
        batch_size=min(cfg.train_dataloader.batch_size, PROBE_SIZE),
        num_workers=0,
        # The training loop adds the length of the vectors, which only the generator knows.
        dataset=dict(type='mmdfad.ProbeDataset', seed=LOOK_SEED, length=PROBE_SIZE),
        sampler=dict(type='mmdfad.NoiseSampler'),
    )
    cfg.val_evaluator = [ConfigDict(type=f'mmdfad.{kind}') for kind in _METRICS.values()]
    cfg.val_cfg = ConfigDict()
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('save_best'):
        known = isinstance(checkpoint.save_best, str) and checkpoint.save_best in _METRICS
        checkpoint.update(save_best=checkpoint.save_best if known else 'agreement', rule='greater')


def require_test_data(cfg: Config, download: bool = False) -> None:
    """Make sure that the test data are on this machine, by making the dataset.

    Args:
        cfg (Config): A config with a ``test_dataloader``, changed in place.
        download (bool): Let the dataset download itself, if it can. Defaults to False.

    Raises:
        DistillError: If data are missing.
    """
    missing = _missing_data(cfg, 'test_dataloader', download)
    if missing is not None:
        raise DistillError(
            f'no test data ({missing}). Expected them where test_dataloader says: set data_root of its dataset, as in '
            '--cfg-options test_dataloader.dataset.data_root=PATH'
        )


def _missing_data(cfg: Config, key: str, download: bool) -> str | None:
    """What is missing for a dataloader, or None if nothing is."""
    loader = cfg.get(key)
    if loader is None:
        return f'the config has no {key}'
    asks = ''
    try:
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            asks = '; --download fetches them' if _forbid_download(loader.dataset, registry, download) else ''
            built = registry.build(copy.deepcopy(loader.dataset))
            if hasattr(built, 'full_init'):
                built.full_init()
    except DistillError:
        raise
    except (OSError, RuntimeError, AssertionError) as error:
        if isinstance(error, AssertionError) and 'download' not in str(error):
            raise  # of another mistake in the config
        return f'{loader.dataset.get("type")}: {error}'.splitlines()[0] + asks
    return None


def _forbid_download(dataset: ConfigDict, registry: Registry, download: bool) -> bool:
    """Forbid a dataset to download itself, unless its config or the flag asks for it. Says if it was forbidden."""
    dataset = innermost_dataset(dataset)
    kind = dataset.get('type')
    kind = registry.get(kind) if isinstance(kind, str) else kind
    if download or 'download' in dataset or kind is None or 'download' not in signature(kind).parameters:
        return False
    dataset.download = False
    return True
