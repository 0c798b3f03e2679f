"""Loads a model's processor, also where torchvision is missing.

Many vision-language models (Qwen-VL, SmolVLM, ...) come with a processor for videos, which transformers builds only
with torchvision, though single pictures need none of it. Without torchvision it is built for pictures alone.
"""

from importlib import import_module
from types import SimpleNamespace
from typing import Any


def load_processor(model: str, **where: str) -> Any:
    """Return the processor of a model folder or hub id.

    Raises:
        OSError: if the files cannot be found.
        ValueError: if they are of no known kind.
        ImportError: if they need a package that is not installed.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(model, **where)
    except ImportError as e:
        if "videoprocessor" not in str(e).lower():
            raise
    return _for_pictures(model, **where)


def _for_pictures(model: str, **where: str) -> Any:
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    mapping: Any = import_module("transformers.models.auto.processing_auto").PROCESSOR_MAPPING
    cls = mapping[type(AutoConfig.from_pretrained(model, **where))]

    def accept(self: Any, name: str, part: object) -> None:
        """Skip the check of the parts: it wants a video processor."""

    still: Any = type(cls.__name__, (cls,), {"check_argument_for_proper_class": accept})
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(model, **where),
        "tokenizer": AutoTokenizer.from_pretrained(model, **where),
    }
    settings, _ = cls.get_processor_dict(model, **where)
    processor = still.from_args_and_dict([parts.get(name) for name in cls.get_attributes()], settings)
    processor.video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM reads both for every message
    return processor
