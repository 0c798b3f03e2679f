"""Cached vectors of a frozen encoder, of one or several cameras: pictures are encoded once and read ever after."""

import numpy as np
from jaxtyping import Float32, Int64

from vlmrl.annotate.embeddings import embeddings
from vlmrl.encoder import DualEncoder
from vlmrl.reward.alignment import shown
from vlmrl.reward.inputs import Source, image
from vlmrl.store import Store
from vlmrl.types import Episode

NEXT = True


def rows(store: Store, source: Source) -> Int64[np.ndarray, " M"]:
    """Rows with a picture of every camera."""
    return image.rows(store, source)


def read(store: Store, source: Source, wanted: Int64[np.ndarray, " M"]) -> Float32[np.ndarray, "M D"]:
    """Unit vectors of the cameras, joined; made where the store has none yet."""
    encoder = DualEncoder.load(source.encoder)
    found = [embeddings(store, camera, encoder)[wanted] for camera in source.cameras]
    return np.concatenate(found, axis=1).astype(np.float32)


def of_episode(episode: Episode, source: Source) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, "M D"]]:
    """Rows with a picture of every camera, and the vectors of those pictures."""
    encoder = DualEncoder.load(source.encoder)
    found = [shown(episode, camera) for camera in source.cameras]
    common = found[0][0]
    for own, _ in found[1:]:
        common = np.intersect1d(common, own)
    # As the store keeps them: half precision.
    vectors = [encoder.images(pixels[np.searchsorted(own, common)]).astype(np.float16) for own, pixels in found]
    return common, np.concatenate(vectors, axis=1).astype(np.float32)
