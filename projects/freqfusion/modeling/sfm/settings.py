"""What ``MODEL.SFM`` says about the backbone that is wrapped, and where."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone

from freqfusion.config_check.wrapped import modulates
from freqfusion.modeling.sfm.insertion import Points

# About maps that leave the backbone modulated and reach a plain head.
NEEDS_A_HEAD = (
    'MODEL.SFM.DEMODULATE "head" leaves maps modulated, which only SFMSemSegHead'
    " (MODEL.SEM_SEG_HEAD.NAME) and SFMPixelDecoder (MODEL.MASK2FORMER.PIXEL_DECODER) undo: take"
    ' one of them, or set it to "exit"'
)


def build_wrapped(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The backbone that ``MODEL.SFM.BACKBONE`` names."""
    name = cfg.MODEL.SFM.BACKBONE
    if modulates(name):
        raise ValueError(
            f"MODEL.SFM.BACKBONE names the backbone that is modulated, so not {name}: write for "
            "instance build_resnet_backbone"
        )
    if name not in BACKBONE_REGISTRY:
        known = ", ".join(sorted(known for known, _ in BACKBONE_REGISTRY))
        raise ValueError(f"MODEL.SFM.BACKBONE must be one of {known}; got {name}")
    backbone: Backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    if isinstance(backbone, FPN):
        raise ValueError(
            f"MODEL.SFM.BACKBONE must be a backbone without a pyramid, got {name}; for a pyramid "
            "on top set MODEL.BACKBONE.NAME to build_sfm_freqfusion_fpn_backbone"
        )
    return backbone


def parse_points(text: str) -> tuple[Points, dict[str, float]]:
    """Read ``MODEL.SFM.POINTS``: ``"auto"`` or ``"res2=res3.0, res3=res4.0@0.5"``.

    Returns:
        The module for each feature, and the phases that stand behind an ``@``.

    Raises:
        ValueError: if the text is neither.
    """
    if text.strip() == "auto":
        return "auto", {}
    points: dict[str, str] = {}
    phases: dict[str, float] = {}
    for part in text.split(","):
        feature, equals, place = (piece.strip() for piece in part.partition("="))
        path, at, phase = (piece.strip() for piece in place.partition("@"))
        try:
            if at:
                phases[feature] = float(phase)
        except ValueError:
            path = ""
        if not (feature and equals and path) or feature in points:
            raise ValueError(
                'MODEL.SFM.POINTS must be "auto" or name each feature once with a module, such as '
                f'"res2=res3.0, res3=res4.0@0.5" (@: the phase of its strides); got {text!r}'
            )
        points[feature] = path
    return points, phases
