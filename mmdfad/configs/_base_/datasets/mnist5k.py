# The 1,000 test digits of Mnist5k, which needs no download. Only for validation and test.
from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import PackInputs
from mmpretrain.evaluation import Accuracy

from mmdfad.datasets import Mnist5k

pipeline = [dict(type=Resize, scale=32), dict(type=PackInputs)]
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(type=Mnist5k, test_mode=True, pipeline=pipeline),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
val_evaluator = dict(type=Accuracy, topk=(1,))
val_cfg = dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg
