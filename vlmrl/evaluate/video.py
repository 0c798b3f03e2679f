"""Writes pictures as an H.264 file that browsers play."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vlmrl.errors import ConfigError


def write_video(pictures: Sequence[UInt8[np.ndarray, "H W 3"]], path: Path, *, fps: float) -> None:
    """Encode RGB pictures at `fps` frames a second.

    Raises:
        ConfigError: if PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ConfigError("videos need PyAV: pip install 'vlmrl[video]'") from error
    height, width = (n - n % 2 for n in pictures[0].shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "23"}
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
