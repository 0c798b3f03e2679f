"""What an encoder makes of a camera's pictures: computed once, kept in the store, read ever after.

Prompts, alpha and thresholds are then cheap: they touch vectors only.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float16, Int64

from vlmrl.encoder import DualEncoder
from vlmrl.errors import DataError
from vlmrl.runfolder import commit
from vlmrl.store import Store
from vlmrl.store.frames import decode_frames

_CHUNK_BYTES = 64 << 20
"""Of decoded pictures held at once."""


def embeddings(
    store: Store, camera: str, encoder: DualEncoder, *, progress: Callable[[int, int], None] | None = None
) -> Float16[np.ndarray, "N D"]:
    """Unit vectors over all rows, NaN where a row has no picture; pictures that have none yet are encoded and kept.

    `progress` is told how many pictures are done, and of how many.

    Raises:
        DataError: if the store has no picture of the camera.
    """
    name = column(encoder, camera)
    while len(rows := _missing(store, camera, name)):
        values = _encode(store, camera, encoder, rows, progress or _silent)
        try:
            store.add_embedding(
                name, values, {"encoder": encoder.name, "sha256": encoder.fingerprint, "commit": commit()}
            )
        except DataError:
            # Another job may have added the same meanwhile.
            store.refresh()
            if len(_missing(store, camera, name)) >= len(rows):
                raise
    if name not in store.embeddings():
        raise DataError(f"{store.path} has no picture of camera {camera!r}: nothing to encode")
    return store.column(f"embedding/{name}")


def column(encoder: DualEncoder, camera: str) -> str:
    """Name of the embedding column."""
    return f"{encoder.fingerprint[:12]}/{camera}"


def _silent(done: int, total: int) -> None:
    del done, total


def _missing(store: Store, camera: str, name: str) -> Int64[np.ndarray, " n"]:
    """Rows that have a picture and no vector."""
    rows = store.frame_rows(camera)
    if name not in store.embeddings():
        return rows
    return rows[np.isnan(store.column(f"embedding/{name}")[rows, 0])]


def _encode(
    store: Store,
    camera: str,
    encoder: DualEncoder,
    rows: Int64[np.ndarray, " n"],
    progress: Callable[[int, int], None],
) -> Float16[np.ndarray, "N D"]:
    """Vectors of some rows, NaN elsewhere."""
    values, done = np.full((len(store), encoder.dim), np.nan, np.float16), 0
    for some, size in _chunks(store, camera, rows):
        # Not through the cache of decoded frames: these are looked at once.
        pictures = decode_frames(store.snapshot, camera, some, size)
        values[some] = encoder.images(pictures)
        done += len(some)
        progress(done, len(rows))
    return values


def _chunks(
    store: Store, camera: str, rows: Int64[np.ndarray, " n"]
) -> Iterator[tuple[Int64[np.ndarray, " _"], tuple[int, int]]]:
    """Rows of one part at a time, few enough to hold, with the size of their pictures there."""
    snapshot = store.snapshot
    part_of = np.searchsorted(snapshot.part_start, rows, side="right") - 1
    for index in np.unique(part_of):
        about = snapshot.manifest.parts[index].cameras[camera]
        size = (int(about["height"]), int(about["width"]))
        own, most = rows[part_of == index], max(1, _CHUNK_BYTES // (size[0] * size[1] * 3))
        for k in range(0, len(own), most):
            yield own[k : k + most], size
