"""Flags of a test that change the config of a plain model."""

import copy

from mmengine.config import Config, ConfigDict

from mmdfad.utils import DistillError
from mmdfad.utils.export import VISUALIZATION_HOOKS


def show_predictions(
    cfg: Config, show: bool = False, show_dir: str | None = None, wait_time: float = 2.0, interval: int = 1
) -> None:
    """Draw predictions on test images, as the ``test.py`` of mmpretrain and mmseg do.

    Args:
        cfg (Config): A plain model's, changed in place.
        show (bool): Show them in a window. Defaults to False.
        show_dir (str, optional): Folder for the pictures.
        wait_time (float): Seconds that each is shown. Defaults to 2.
        interval (int): Draw every so many images. Defaults to 1.

    Raises:
        DistillError: If the model is of neither package.
    """
    scope = cfg.get('default_scope')
    if scope not in VISUALIZATION_HOOKS:
        raise DistillError(f'--show and --show-dir draw predictions of mmpretrain and mmseg models, but found {scope}')
    hook = dict(type=VISUALIZATION_HOOKS[scope], show=show, wait_time=wait_time, interval=interval)
    if scope == 'mmseg':
        hook['draw'] = True
        cfg.visualizer.save_dir = show_dir
    else:
        hook.update(enable=True, out_dir=show_dir)
    cfg.default_hooks = cfg.get('default_hooks') or ConfigDict()
    cfg.default_hooks.visualization = hook


def augment_test(cfg: Config, run: Config) -> None:
    """Average predictions over augmented images: the run's ``tta_model`` and ``tta_pipeline``, or flips.

    Args:
        cfg (Config): A plain model's, changed in place.
        run (Config): The config that it is from.
    """
    kind = 'mmseg.SegTTAModel' if cfg.get('default_scope') == 'mmseg' else 'mmpretrain.AverageClsScoreTTA'
    model = run.get('tta_model') or dict(type=kind)
    pipeline = run.get('tta_pipeline') or _flipped(cfg.test_dataloader.dataset.pipeline)
    cfg.model = ConfigDict(**model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = pipeline


def _flipped(pipeline: list[dict]) -> list[dict]:
    """A test pipeline that gives each image as it is, and flipped."""
    *steps, pack = copy.deepcopy(pipeline)
    # Annotations are not flipped: predictions are flipped back.
    flips = [dict(type='mmcv.RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
    labels = [step for step in steps if str(step['type']).endswith('LoadAnnotations')]
    steps = [step for step in steps if step not in labels]
    return [*steps, dict(type='mmcv.TestTimeAug', transforms=[flips, *([labels] if labels else []), [pack]])]
