"""Numbers that the authors of the methods have published; none of them was measured here."""

from __future__ import annotations

from dataclasses import dataclass

_PAPER = "abstract of the SFM paper (TPAMI 2025, arXiv 2507.11893 v2)"
_README = "README of the authors' SFM repository"
_CARD = "Hugging Face model card of the authors' SFM checkpoints"


@dataclass(frozen=True)
class Published:
    """A published number.

    Args:
        text: The number and what it is of.
        source: Where it stands.
        config: Name of the recipe that is the nearest to it; empty if there is none.
        difference: What the source leaves open, or what our recipe does otherwise.
    """

    text: str
    source: str
    config: str = ""
    difference: str = ""


PUBLISHED = (
    Published(
        "+1.5 mIoU over Mask2Former, Swin-T, ADE20K",
        _PAPER,
        "ade20k/semantic-segmentation/sfm_mask2former_swin_t.yaml",
        "a gain, not a score",
    ),
    Published(
        "+1.4 mIoU over InternImage-T, ADE20K",
        _PAPER,
        "ade20k/semantic-segmentation/sfm_mask2former_internimage_t.yaml",
        "a gain, not a score; the head is not named there, ours is Mask2Former's",
    ),
    Published(
        "mIoU 76.2, FCN with SFM, R50, output stride 32, Cityscapes val",
        _CARD,
        "cityscapes/semantic-segmentation/sfm_fcn_r50_d32.yaml",
        "the schedule is not given there",
    ),
    Published(
        "mIoU 47.7 without and 49.2 with SFM, Mask2Former, ADE20K",
        _README,
        difference="the backbone is not named beside it",
    ),
    Published(
        "+0.8 mIoU of adaptive resampling on top of deformable convolution, Cityscapes", _PAPER
    ),
    Published(
        "mIoU with SFM, R50, Cityscapes val, output strides 32, 16, 8: CCNet 76.3, 78.5, 79.3;"
        " OCNet 75.8, 78.0, 79.7",
        _CARD,
        difference="these heads are not here",
    ),
    Published(
        "mIoU 78.1, PSPNet with SFM, R50, output stride 16, Cityscapes val",
        _CARD,
        difference="this head is not here",
    ),
)


def published_for(config: str) -> Published | None:
    """What is published for a recipe, if anything is quoted here."""
    return next((one for one in PUBLISHED if one.config == config), None)
