"""Generated images and label maps as pictures inside a page."""

import base64

import cv2
import numpy as np

from mmdfad.engine.probe import Classes

from .generated import Example, Generated

# Pixels of the longer side of a picture. Larger ones are made smaller.
_LONGEST = 224
# In maps of differences.
_AGREE, _DIFFER = (226, 229, 233), (200, 30, 45)
# Classes in a legend of all. Of more, only those in the pictures are listed.
_FEW = 32


def show_examples(generated: Generated, classes: Classes) -> dict[str, list[dict]]:
    """The examples as pictures with captions.

    Args:
        generated (Generated): The examples.
        classes (Classes): Names and colours.

    Returns:
        dict[str, list[dict]]: ``worst`` and ``drawn``, a dict for each example: ``panels``, pairs of a title and a
        picture's URI; ``teacher`` and ``student``, the labels of a classifier; ``agreement``.
    """
    return {kind: [_show(example, classes) for example in getattr(generated, kind)] for kind in ('worst', 'drawn')}


def legend(generated: Generated, classes: Classes) -> list[tuple[str, str]]:
    """Names and colours, as ``#rrggbb``, of the classes in label maps."""
    numbers = range(len(classes.names))
    if len(numbers) > _FEW:
        numbers = sorted({label for pair in generated.pairs for label in pair})[: 2 * _FEW]
    return [(classes.names[i], '#{:02x}{:02x}{:02x}'.format(*classes.palette[i].tolist())) for i in numbers]


def _show(example: Example, classes: Classes) -> dict:
    image = ('image', data_uri(example.picture, '.jpg' if max(example.picture.shape) > 64 else '.png'))
    shown = dict(panels=[image], agreement=example.agreement, width=example.picture.shape[1])
    if example.teacher.ndim == 0:
        names = (classes.names[int(label)] for label in (example.teacher, example.student))
        for role, name, confidence in zip(('teacher', 'student'), names, example.confidence, strict=True):
            shown[role] = dict(name=name, confidence=confidence)
        return shown
    same = (example.teacher == example.student)[..., None]
    maps = dict(
        teacher=classes.palette[example.teacher],
        student=classes.palette[example.student],
        differences=np.where(same, _AGREE, _DIFFER).astype(np.uint8),
    )
    shown['panels'] += [(title, data_uri(picture, '.png')) for title, picture in maps.items()]
    return shown


def data_uri(picture: np.ndarray, extension: str) -> str:
    """A picture as a URI that holds it.

    Args:
        picture (np.ndarray): uint8 RGB [H, W, 3].
        extension (str): ``'.png'`` or ``'.jpg'``. The pixels of a PNG are not mixed when it is made smaller: they may
            be labels.
    """
    factor = _LONGEST / max(picture.shape[:2])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in picture.shape[1::-1]]
        how = cv2.INTER_NEAREST if extension == '.png' else cv2.INTER_AREA
        picture = cv2.resize(picture, size, interpolation=how)
    settings = [cv2.IMWRITE_JPEG_QUALITY, 85] if extension == '.jpg' else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, content = cv2.imencode(extension, picture[..., ::-1], settings)
    kind = extension.strip('.').replace('jpg', 'jpeg')
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
