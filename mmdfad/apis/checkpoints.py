"""Training checkpoints: which one to resume from, and the student in them."""

import logging
import re
import zipfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from torch import nn

from mmdfad.engine.run_record import read_record
from mmdfad.models.base_distiller import STUDENT_PREFIX
from mmdfad.models.build import build_model
from mmdfad.models.network import AUXILIARY_PREFIX
from mmdfad.utils import DistillError
from mmdfad.utils.checkpoint import read_checkpoint
from mmdfad.utils.export import dataset_meta_of, write_student
from mmdfad.utils.state_dict import explain_mismatch

from .config import plain_student_config


def set_resume(cfg: Config, resume: str) -> None:
    """Point a config at the checkpoint to resume from.

    Each file is checked once, and here only for damage. Its content is read by the Runner.

    Args:
        cfg (Config): A config with its ``work_dir``, changed in place.
        resume (str): A checkpoint, or ``'auto'`` for the latest whole one in the work directory. If there is none, the
            run starts from the first round.

    Raises:
        DistillError: If the checkpoint does not exist or is damaged.
    """
    if resume == 'auto':
        # The first rank decides for all.
        found = [find_resumable_checkpoint(cfg.work_dir) if is_main_process() else None]
        broadcast_object_list(found)
        if found[0] is None:
            print_log(f'Nothing to resume in {cfg.work_dir}: starting from the first round')
            return
        resume = found[0]
    else:
        require_whole_checkpoint(resume)
    cfg.resume, cfg.load_from = True, resume


def find_resumable_checkpoint(work_dir: str | Path) -> str | None:
    """The latest whole checkpoint in a work directory.

    Args:
        work_dir (str | Path): The work directory.

    Returns:
        str | None: Its path, or None if there is none. A damaged file is skipped with a warning.
    """
    work_dir = Path(work_dir)
    candidates = [path for path in work_dir.glob('*.pth') if _round_of(path) >= 0]
    candidates.sort(key=_round_of, reverse=True)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        last = Path(pointer.read_text().strip())
        # A work directory may have been moved: a checkpoint beside the pointer counts more than the recorded path.
        candidates = [c for c in (work_dir / last.name, last) if c.is_file()][:1] + candidates
    damaged = False
    for candidate in dict.fromkeys(candidates):
        if not _is_whole(candidate):
            damaged = True
            print_log(f'{candidate} is damaged; trying the checkpoint before it', 'current', logging.WARNING)
        elif damaged and _is_of_another_run(candidate, work_dir):
            print_log(
                f'{candidate} belongs to an earlier run in the same folder; not resuming from it',
                'current',
                logging.WARNING,
            )
        else:
            return str(candidate)
    return None


def _is_of_another_run(checkpoint: Path, work_dir: Path) -> bool:
    ours = read_record(work_dir).get('id')
    if ours is None:
        return False
    theirs = read_checkpoint(str(checkpoint), f'checkpoint {checkpoint}').get('meta', {}).get('run')
    return theirs is not None and ours != theirs


def require_whole_checkpoint(path: str) -> None:
    """Check a local checkpoint for damage.

    Args:
        path (str): A path. URLs are not checked.

    Raises:
        DistillError: If the file does not exist or is damaged.
    """
    if '://' in path:
        return
    if not Path(path).is_file():
        raise DistillError(f'checkpoint {path} does not exist')
    if not _is_whole(Path(path)):
        raise DistillError(f'checkpoint {path} is corrupt, truncated or not a checkpoint of torch')


def load_student_weights(model: nn.Module, checkpoint: str) -> dict:
    """Load a student into its plain model, strictly.

    Args:
        model (nn.Module): The plain mmpretrain or mmseg model.
        checkpoint (str): A training checkpoint of a distillation, or an exported student.

    Returns:
        dict: The checkpoint's ``meta``.

    Raises:
        DistillError: If the checkpoint cannot be read or does not fit.
    """
    state, meta = _student_of(checkpoint)
    expected = model.state_dict()
    # An exported student has the auxiliary heads of its config. A training checkpoint has none.
    auxiliary = {k for k in expected.keys() ^ state.keys() if k.startswith(AUXILIARY_PREFIX)}
    state = {k: v for k, v in state.items() if k not in auxiliary}
    problem = explain_mismatch({k: v for k, v in expected.items() if k not in auxiliary}, state)
    if problem:
        raise DistillError(f'checkpoint {checkpoint} does not fit the student of this config:\n{problem}')
    model.load_state_dict(state, strict=False)  # not strict: some models drop names while they load
    return meta


def export_student(cfg: Config, checkpoint: str, out_dir: str | Path) -> tuple[Path, Path]:
    """Write the student in a training checkpoint as a plain model.

    Args:
        cfg (Config): The distillation's config.
        checkpoint (str): A training checkpoint.
        out_dir (str | Path): The folder for ``student.py`` and ``student.pth``.

    Returns:
        tuple[Path, Path]: The two files.
    """
    plain = plain_student_config(cfg)
    model = build_model(plain, 'student')
    meta = load_student_weights(model, checkpoint)
    about = meta.get('student') or {key: meta[key] for key in ('dataset_meta', 'mmdfad') if key in meta}
    export_meta = dict(about, iter=meta.get('iter'))
    export_meta['dataset_meta'] = about.get('dataset_meta') or dataset_meta_of(plain)
    return write_student(out_dir, plain, model.state_dict(), export_meta)


def _student_of(checkpoint: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The student's state dict, without a prefix, and the checkpoint's meta."""
    require_whole_checkpoint(checkpoint)
    content = read_checkpoint(checkpoint, f'checkpoint {checkpoint}')
    state = {k.removeprefix('module.'): v for k, v in content.get('state_dict', content).items()}
    student = {k.removeprefix(STUDENT_PREFIX): v for k, v in state.items() if k.startswith(STUDENT_PREFIX)}
    return student or state, content.get('meta', {})


def _round_of(path: Path) -> int:
    number = re.fullmatch(r'(?:iter|epoch)_(\d+)', path.stem)  # plain models count epochs
    return int(number[1]) if number else -1


def _is_whole(path: Path) -> bool:
    """Whether everything that torch wrote is there, by the checksums in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except OSError:
        return False
    except zipfile.BadZipFile:
        return _is_readable(path)


def _is_readable(path: Path) -> bool:
    """Whether a file of torch before 1.6 can be read. It has no checksums."""
    try:
        read_checkpoint(str(path), f'checkpoint {path}')
    except DistillError:
        raise
    except Exception:  # torch.load has no common base class for what a damaged file can raise
        return False
    return True
