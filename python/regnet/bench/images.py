"""Real photographs as network input: the ones inside scikit-learn and scikit-image, or the user's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Shipped inside the wheels, so nothing is downloaded: (package, folder in it, file).
PHOTOGRAPHS = (
    ("sklearn", "datasets/images", "china.jpg"),
    ("sklearn", "datasets/images", "flower.jpg"),
    ("skimage", "data", "astronaut.png"),
    ("skimage", "data", "chelsea.png"),
    ("skimage", "data", "coffee.png"),
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
# ImageNet's channel means and standard deviations (RGB, of pixels in 0..1), as timm and torchvision use them.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
RESIZE_OVER_CROP = 256 / 224  # the paper's test protocol: resize 256, centre crop 224


def find_images(path: str | Path | None = None) -> list[Path]:
    """Image files: those of `path` (a file or a folder, not recursive), or the packaged photographs if it is None.

    Raises FileNotFoundError if the path or every packaged photograph is missing, ValueError if a folder holds no image.
    """
    if path is None:
        return _packaged()
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no image file or folder at {path}")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"no image in the folder {path}: expected files ending in {' '.join(SUFFIXES)}")
    return found


def load_images(paths: Sequence[Path], resolution: int = 224) -> np.ndarray:
    """Files -> (N, 3, resolution, resolution) float32: shorter side to resolution * 256 / 224, centre crop, normalise."""
    if resolution < 32:
        raise ValueError(f"resolution {resolution} is too small: the network halves it five times; use at least 32")
    return np.stack([_load(path, resolution) for path in paths])


def batch_of(images: np.ndarray, size: int) -> np.ndarray:
    """(N, 3, H, W) -> (size, 3, H, W), contiguous: the images over and over until the batch is full."""
    if size < 1:
        raise ValueError(f"batch size {size}: expected 1 or more")
    return np.ascontiguousarray(images[np.arange(size) % len(images)])


def _packaged() -> list[Path]:
    found, missing = [], []
    for package, folder, name in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        path = Path(spec.submodule_search_locations[0]) / folder / name if spec else None
        if path is not None and path.is_file():
            found.append(path)
        else:
            missing.append(f"{name} ({package})")
    if missing:
        raise FileNotFoundError(
            f"photographs not found: {', '.join(missing)}; install scikit-learn and scikit-image"
            " (pip install 'regnet-kernels[bench]') or name images of your own with --images"
        )
    return found


def _load(path: Path, resolution: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow can read") from error
    short = round(resolution * RESIZE_OVER_CROP)
    width, height = (short * side // min(image.size) for side in image.size)  # rounded as torchvision does
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    pixels = np.asarray(image.crop((left, top, left + resolution, top + resolution)), dtype=np.float32) / 255
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1))
