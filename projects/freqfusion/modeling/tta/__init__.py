"""Test-time augmentation: several sizes of an image, mirrored too, and one result of them all."""

from freqfusion.modeling.tta.model import TestTimeAugmentation, semantic_kind, with_augmentation

__all__ = ["TestTimeAugmentation", "semantic_kind", "with_augmentation"]
