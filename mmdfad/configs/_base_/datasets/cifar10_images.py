# CIFAR-10 as folders of images, one folder a class. Only for validation and test.
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import CustomDataset, PackInputs, ResizeEdge
from mmpretrain.evaluation import Accuracy

val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    dataset=dict(
        type=CustomDataset,
        data_root='data/cifar10/images',
        pipeline=[dict(type=LoadImageFromFile), dict(type=ResizeEdge, scale=32), dict(type=PackInputs)],
    ),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
val_evaluator = dict(type=Accuracy, topk=(1,))
val_cfg = dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg
