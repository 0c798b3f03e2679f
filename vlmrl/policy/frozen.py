"""What a frozen encoder makes of pictures, as a store keeps it: observations named `embedding/ENCODER/CAMERA`."""

import functools
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float32

from vlmrl.encoder import DualEncoder
from vlmrl.errors import DataError
from vlmrl.sight import PREFIX, embedding


def cameras(keys: Iterable[str]) -> list[str]:
    """Whose pictures the embeddings among some keys are of."""
    return [found[1] for key in keys if (found := embedding(key))]


def embedded(
    observations: Mapping[str, np.ndarray], keys: Iterable[str], encoders: Mapping[str, str]
) -> Mapping[str, np.ndarray]:
    """The observations with the embeddings among `keys`; `encoders` are fingerprints by name.

    Raises:
        DataError: if a picture is missing, or an encoder is not the one that its fingerprint says.
    """
    made = dict(observations)
    for key in keys:
        if (found := embedding(key)) is None:
            continue
        name, camera = found
        encoder, picture = _encoder(name), f"{PREFIX}{camera}"
        if encoders.get(name, encoder.fingerprint) != encoder.fingerprint:
            raise DataError(f"encoder {name!r} is not the one that was trained on: other weights under the same name")
        if picture not in observations:
            raise DataError(f"{key!r} needs observation {picture!r}; have: {', '.join(observations)}")
        made[key] = _vectors(encoder, observations[picture])
    return made


def _vectors(encoder: DualEncoder, pictures: np.ndarray) -> Float32[np.ndarray, "B *T D"]:
    """One by one, so that none depends on its neighbours, and in half precision, as a store keeps them."""
    each = pictures.reshape(-1, *pictures.shape[-3:])
    found = np.concatenate([encoder.images(one[None]) for one in each]).astype(np.float16)
    return found.astype(np.float32).reshape(*pictures.shape[:-3], -1)


@functools.cache
def _encoder(name: str) -> DualEncoder:
    return DualEncoder.load(name)
