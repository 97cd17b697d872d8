"""Checkpoints of pycls, timm, torchvision and regnet: detect, convert, load, write. Each tensor has one name in each
format (layouts.py); conversion renames, reverses a BGR stem, and changes nothing else."""

from regnet.checkpoints.convert import convert_state_dict, detect_format
from regnet.checkpoints.errors import CheckpointError
from regnet.checkpoints.load import load_checkpoint
from regnet.checkpoints.read import read_checkpoint
from regnet.checkpoints.write import convert_checkpoint, write_checkpoint

__all__ = [
    "CheckpointError",
    "convert_checkpoint",
    "convert_state_dict",
    "detect_format",
    "load_checkpoint",
    "read_checkpoint",
    "write_checkpoint",
]
