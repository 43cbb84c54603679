"""Training checkpoints: finding the one to go on from, and getting the student out."""

import re
import zipfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.logging import MMLogger, print_log
from torch import nn

from mmdfad.models.players import build_model
from mmdfad.utils import DistillError
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.checkpoint import read_checkpoint
from mmdfad.utils.export import dataset_meta_of, write_student
from mmdfad.utils.state_dict import explain_mismatch

from .config import plain_student_config

_STUDENT = 'student.model.'
_AUXILIARY = 'auxiliary_head.'


def find_resumable_checkpoint(work_dir: str | Path) -> str | None:
    """The latest whole checkpoint of a work directory.

    Args:
        work_dir (str | Path): The work directory.

    Returns:
        str | None: Its path; None if there is none. Damaged files are passed over, with a warning.
    """
    work_dir = Path(work_dir)
    candidates = sorted(work_dir.glob('iter_*.pth'), key=_round_of, reverse=True)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        last = Path(pointer.read_text().strip())
        # Moving a work directory must not break it: a checkpoint beside the pointer wins over the recorded path.
        candidates = [c for c in (work_dir / last.name, last) if c.is_file()][:1] + candidates
    for candidate in dict.fromkeys(candidates):
        if _is_whole(candidate):
            return str(candidate)
        print_log(f'{candidate} is damaged; trying the checkpoint before it', MMLogger.get_current_instance(), level=30)
    return None


def require_whole_checkpoint(path: str) -> None:
    """Check that a local checkpoint can be read.

    Args:
        path (str): A path; URLs are not looked at.

    Raises:
        DistillError: If it does not exist, or is damaged.
    """
    if '://' in path:
        return
    if not Path(path).is_file():
        raise DistillError(f'checkpoint {path} does not exist')
    if not _is_whole(Path(path)):
        raise DistillError(f'checkpoint {path} is corrupt, truncated or no checkpoint of torch')


def require_writable(work_dir: str | Path) -> None:
    """Check that a work directory can be made and written to, before anything is computed.

    Args:
        work_dir (str | Path): The work directory.

    Raises:
        DistillError: If it cannot.
    """
    try:
        probe = Path(work_dir, f'.writable.{get_rank()}')
        atomic_write(probe, b'')
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise DistillError(
            f'cannot write to the work directory {work_dir}: {error}. Name another with --work-dir'
        ) from error


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
    # Distillation does without auxiliary heads, so a training checkpoint has none, and an exported student has those
    # that its config describes.
    auxiliary = {k for k in expected.keys() ^ state.keys() if k.startswith(_AUXILIARY)}
    state = {k: v for k, v in state.items() if k not in auxiliary}
    problem = explain_mismatch({k: v for k, v in expected.items() if k not in auxiliary}, state)
    if problem:
        raise DistillError(f'checkpoint {checkpoint} does not fit the student of this config:\n{problem}')
    model.load_state_dict(state, strict=False)  # as just compared; some models drop names while they load
    return meta


def export_student(cfg: Config, checkpoint: str, out_dir: str | Path) -> tuple[Path, Path]:
    """Write the student of a training checkpoint as a plain model.

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
    dataset_meta = (meta.get('student') or {}).get('dataset_meta') or meta.get('dataset_meta') or dataset_meta_of(plain)
    export_meta = dict(dataset_meta=dataset_meta, iter=meta.get('iter'))
    return write_student(out_dir, plain, model.state_dict(), export_meta)


def _student_of(checkpoint: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The student's state dict, without a prefix, and the checkpoint's meta."""
    require_whole_checkpoint(checkpoint)
    content = read_checkpoint(checkpoint, f'checkpoint {checkpoint}')
    state = {k.removeprefix('module.'): v for k, v in content.get('state_dict', content).items()}
    student = {k.removeprefix(_STUDENT): v for k, v in state.items() if k.startswith(_STUDENT)}
    return student or state, content.get('meta', {})


def _round_of(path: Path) -> int:
    number = re.fullmatch(r'iter_(\d+)', path.stem)
    return int(number[1]) if number else -1


def _is_whole(path: Path) -> bool:
    """Whether all that torch wrote is there."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except OSError:
        return False
    except zipfile.BadZipFile:
        return _is_readable(path)


def _is_readable(path: Path) -> bool:
    """For what torch wrote before 1.6, which has no checksums."""
    try:
        read_checkpoint(str(path), f'checkpoint {path}')
    except DistillError:
        raise
    except Exception:  # torch.load has no common base class for what a damaged file can raise
        return False
    return True
