# CamVid at 240x180, without resizing. Validation uses the validation images, and test uses the test images.
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop, ValLoop
from mmseg.datasets import LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric

from mmdfad.datasets import CamVidDataset

pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
dataset = dict(type=CamVidDataset, data_root='data/camvid_small', test_mode=True, pipeline=pipeline)
loader = dict(batch_size=8, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False))
val_dataloader = dict(**loader, dataset=dict(**dataset, ann_file='val.txt'))
test_dataloader = dict(**loader, dataset=dict(**dataset, ann_file='test.txt'))
val_evaluator = test_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
