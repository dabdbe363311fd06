"""Three scenes, and weights of models that have learned nothing, for the tests of all tools."""

import shutil

import pytest

from freqfusion.data.synthetic import write_coco


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Three scenes of 64 x 80 in the layout of the synthetic data sets."""
    return write_coco(
        tmp_path_factory.mktemp("scenes") / "synthetic",
        num_train=0, num_val=3, size=(64, 80), workers=1, progress=False,
    )  # fmt: skip


@pytest.fixture
def data(scenes, tmp_path, monkeypatch):
    """A copy of the scenes, registered as the synthetic data sets for this test."""
    pytest.importorskip("detectron2")
    from rehearsed import registered_at

    root = shutil.copytree(scenes, tmp_path / "data" / "synthetic")
    with registered_at(root.parent, monkeypatch):
        yield root


class RandomWeights(dict):
    """Files of initial weights, made when their configuration is first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, config):
        import torch
        from detectron2.modeling import build_model

        from freqfusion.engine.setup import load_config

        torch.manual_seed(0)
        model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
        self[config] = str(self.folder / f"{len(self)}.pth")
        torch.save({"model": model.state_dict()}, self[config])
        return self[config]


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory):
    """Files of weights by the path of a configuration."""
    return RandomWeights(tmp_path_factory.mktemp("weights"))
