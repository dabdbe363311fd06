"""Names of ours in Detectron2's registries are free of those of the original Mask2Former."""

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

import freqfusion.modeling

# What importing the original package registers; a name twice is an error there.
ORIGINAL = {
    "MaskFormer",
    "MaskFormerHead",
    "PerPixelBaselineHead",
    "PerPixelBaselinePlusHead",
    "PointRendSemSegHead",
    "BasePixelDecoder",
    "TransformerEncoderPixelDecoder",
    "MSDeformAttnPixelDecoder",
    "D2SwinTransformer",
}
REGISTRIES = (BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY)


def test_no_name_is_taken_from_the_original_package():
    registered = {
        name: entry
        for registry in REGISTRIES
        for name, entry in registry
        if entry.__module__.startswith("freqfusion.")
    }
    assert {"Mask2Former", "Mask2FormerHead", "FreqFusionPixelDecoder"} <= set(registered)
    assert not ORIGINAL & set(registered)


def test_a_registered_name_is_the_name_of_its_class():
    for registry in REGISTRIES:
        for name, entry in registry:
            if entry.__module__.startswith("freqfusion."):
                assert name == entry.__name__


def test_everything_public_is_there():
    for name in freqfusion.modeling.__all__:
        assert hasattr(freqfusion.modeling, name)
