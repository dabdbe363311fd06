"""A backbone around another one that changes no name of its parts."""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

# What a torch module keeps its tree, its parameters and the hooks of its state dict in.
_REGISTRIES = (
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_modules",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class WrappingBackbone(Backbone):
    """A backbone whose parts are those of another one, which does the work.

    Parameters, buffers and state-dict keys have the names that they have without wrapping, so that
    published weights load, and optimizers and checkpointers see the tree that they know. Both
    modules share one set of dictionaries: whatever changes parts or parameters later (moving to a
    device, converting normalisations, copying) changes both. The wrapped backbone itself is no part
    of the tree. A prefix cut off by hooks of the state dict would do for files, but names of
    parameters and of modules would still differ from them.

    Args:
        backbone: Belongs to this module afterwards.
    """

    wrapped: Backbone

    def __init__(self, backbone: Backbone):
        super().__init__()
        for name in _REGISTRIES:
            self.__dict__[name] = backbone.__dict__[name]
        self.__dict__["wrapped"] = backbone
        self._version = backbone._version
        self.training = backbone.training

    def forward(self, images: Any) -> dict[str, Any]:
        """The wrapped backbone's maps."""
        maps: dict[str, Any] = self.wrapped(images)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """The wrapped backbone's."""
        shapes: dict[str, ShapeSpec] = self.wrapped.output_shape()
        return shapes

    @property
    def size_divisibility(self) -> int:
        """The wrapped backbone's."""
        return int(self.wrapped.size_divisibility)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The wrapped backbone's."""
        return dict(self.wrapped.padding_constraints)

    def train(self, mode: bool = True) -> "WrappingBackbone":
        """Set the mode of this module, of the wrapped one and of their parts."""
        self.wrapped.train(mode)
        self.training = mode
        return self

    # The wrapped backbone may read and write state dicts in its own way.
    def _load_from_state_dict(self, *args: Any) -> None:
        self.wrapped._load_from_state_dict(*args)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.wrapped._save_to_state_dict(*args)
