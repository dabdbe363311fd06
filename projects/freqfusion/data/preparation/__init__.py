"""Label maps that training needs and downloads lack, derived from those they have."""

from freqfusion.data.preparation.cityscapes import prepare_cityscapes
from freqfusion.data.preparation.coco import prepare_coco
from freqfusion.data.preparation.declared import prepare_declared
from freqfusion.data.preparation.output import Derived
from freqfusion.data.preparation.relabelled import prepare_ade20k, prepare_camvid
from freqfusion.data.preparation.stuff_maps import separated_labels, write_stuff_maps

__all__ = [
    "Derived",
    "prepare_ade20k",
    "prepare_camvid",
    "prepare_cityscapes",
    "prepare_coco",
    "prepare_declared",
    "separated_labels",
    "write_stuff_maps",
]
