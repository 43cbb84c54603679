"""The teachers and students that the prediction of agreement is calibrated on."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path('tools/analysis_tools/calibration')
OWN, SHIPPED, EXAMPLES = HERE / 'teachers', Path('configs/teachers'), Path('examples')


@dataclass(frozen=True)
class Teacher:
    """A trained model.

    Attributes:
        config (Path): Its config.
        checkpoint (str, optional): Its weights. It is trained if there are none.
        flags (tuple[str, ...]): Flags of ``tools/distill.py`` that it needs.
    """

    config: Path
    checkpoint: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A student of a teacher.

    Attributes:
        teacher (str): Name of the teacher in ``TEACHERS``.
        student (str): ``--student`` of ``tools/distill.py``.
        method (str): ``--method``.
        rounds (int): ``--rounds``, a multiple of 4.
    """

    teacher: str
    student: str
    method: str
    rounds: int

    @property
    def name(self) -> str:
        """str: Name of the run."""
        student = Path(self.student).stem if self.student.endswith('.py') else self.student.replace(':', '')
        return f'{self.teacher}_{student}_{self.method}'.replace(',', '-').replace('=', '')


CAMVID = ('--image-size', '96', '128')
TEACHERS = dict(
    lenet5=Teacher(SHIPPED / 'lenet5_mnist5k.py'),
    vit=Teacher(SHIPPED / 'vit_mnist5k.py'),
    swin=Teacher(SHIPPED / 'swin_mnist5k.py'),
    convnext=Teacher(OWN / 'convnext_mnist5k.py'),
    resnet=Teacher(OWN / 'resnet_mnist5k.py'),
    resnet44=Teacher(OWN / 'resnet44_cifar10.py', 'data/cifar10/resnet44.pth'),
    resnet32=Teacher(EXAMPLES / 'resnet32_cifar10.py', 'data/cifar10/resnet32.pth'),
    resnet4k=Teacher(OWN / 'resnet_cifar10_4k.py'),
    deeplabv3=Teacher(SHIPPED / 'deeplabv3_r18w32_camvid_small.py', 'data/camvid_teacher/deeplabv3_r18w32.pth', CAMVID),
)
LENET_HALF = str(HERE / 'students/lenet5half_mnist5k.py')
PAIRS = [
    Pair('lenet5', LENET_HALF, 'ils', 80),
    Pair('lenet5', LENET_HALF, 'dfad', 40),
    Pair('vit', 'auto:0.5', 'ils', 40),
    Pair('vit', 'auto:0.25', 'ils', 40),
    Pair('vit', 'auto:depth=0.5', 'ils', 40),
    Pair('vit', 'auto:0.5', 'dfad', 40),
    Pair('swin', 'auto:0.5', 'ils', 40),
    Pair('swin', 'auto:width=0.5,depth=0.5', 'ils', 40),
    Pair('swin', 'auto:depth=0.5', 'ils', 40),
    Pair('convnext', 'auto:0.5', 'ils', 40),
    Pair('convnext', 'auto:0.25', 'ils', 40),
    Pair('convnext', 'auto:depth=0.5', 'ils', 40),
    Pair('resnet', 'auto:0.5', 'ils', 60),
    Pair('resnet', 'auto:0.25', 'ils', 60),
    Pair('resnet', 'auto:0.5', 'dfad', 40),
    Pair('resnet32', str(EXAMPLES / 'resnet20_cifar10.py'), 'ils', 80),
    Pair('resnet32', str(EXAMPLES / 'resnet32half_cifar10.py'), 'ils', 80),
    Pair('resnet44', str(EXAMPLES / 'resnet20_cifar10.py'), 'ils', 80),
    Pair('resnet44', str(EXAMPLES / 'resnet32half_cifar10.py'), 'ils', 80),
    Pair('resnet4k', 'auto:0.75', 'ils', 80),
    Pair('resnet4k', 'auto:0.5', 'ils', 80),
    Pair('resnet4k', 'auto:0.25', 'ils', 80),
    Pair('deeplabv3', 'auto:0.75', 'ils', 60),
    Pair('deeplabv3', 'auto:0.5', 'ils', 60),
    Pair('deeplabv3', 'auto:0.25', 'ils', 60),
]
