"""A small matrix with rows that no training has made."""

from pathlib import Path

from benchmarks.documents import SCHEMA, write_json

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/synthetic/semantic-segmentation/semantic_fpn_r18.yaml"
MATRIX = f"""
shared: {{SOLVER.MAX_ITER: 2}}
learning_rate: {{factors: [0.5, 1.0, 2.0], seed: 100}}
smallest: {{experiment: fpn, methods: [bilinear, freqfusion], seeds: [0]}}
methods:
  bilinear:
    set: {{MODEL.FREQFUSION.ENABLED: True, MODEL.FREQFUSION.FUSE_TYPE: bilinear}}
  freqfusion:
    title: FreqFusion
    set: {{MODEL.FREQFUSION.ENABLED: True}}
  carafe:
    set: {{MODEL.FREQFUSION.ENABLED: True, MODEL.FREQFUSION.FUSE_TYPE: carafe}}
questions:
- {{ask: "Does it help?", experiment: fpn, pair: [freqfusion, bilinear], metric: mIoU}}
- {{ask: "More than CARAFE?", experiment: fpn, pair: [freqfusion, carafe], metric: mIoU}}
experiments:
  fpn:
    title: Semantic FPN
    config: {CONFIG}
    data: {{detail: full, size: 64x64, num_train: 4, num_val: 2}}
    methods: {{bilinear: 3, freqfusion: 3, carafe: 3}}
    metrics: {{mIoU: sem_seg/mIoU, thin IoU: sem_seg/mIoU-thin}}
    pairs:
    - [freqfusion, bilinear]
    - [freqfusion, carafe]
  curve:
    title: Gain
    config: {CONFIG}
    data: {{detail: full}}
    dial: {{line_thickness: [1, 3, 5]}}
    methods: {{bilinear: 2, freqfusion: 2}}
    metrics: {{mIoU: sem_seg/mIoU}}
    pairs:
    - [freqfusion, bilinear]
    learning_rates: fpn
"""


def write_matrix(folder: Path, text: str = MATRIX) -> Path:
    """Write ``ablation.yaml`` into a folder."""
    path = folder / "ablation.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def row(experiment="fpn", method="freqfusion", seed=0, dial=None, **scores):
    """A row with these scores of a semantic model."""
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "method": method,
        "seed": seed,
        "dial": dial or {},
        "learning_rate": {"factor": 1.0, "chosen_on_tune": False},
        "scores": {f"sem_seg/{name}": score for name, score in scores.items()},
        "seconds": 30.0,
        "step_seconds": 0.25,
        "parameters": 12_340_000,
        "device": "cpu",
        "versions": {"torch": "2.15.0"},
        "revision": "0123456789abcdef",
    }


def write_rows(folder: Path, rows) -> Path:
    """Rows as files."""
    for number, content in enumerate(rows):
        write_json(folder / content["experiment"] / f"{number:03}.json", content)
    return folder
