"""What a frozen encoder makes of pictures and sentences, as it was trained on.

Observations named `embedding/ENCODER/CAMERA` and `sentence/ENCODER`.
"""

import functools
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float32

from vlmrl.encoder import DualEncoder
from vlmrl.errors import DataError
from vlmrl.sight import INSTRUCTIONS, PREFIX, embedding, named, sentence


def cameras(keys: Iterable[str]) -> list[str]:
    """Whose pictures the embeddings among some keys are of."""
    return [found[1] for key in keys if (found := embedding(key))]


def embedded(
    observations: Mapping[str, np.ndarray], keys: Iterable[str], encoders: Mapping[str, str]
) -> Mapping[str, np.ndarray]:
    """The observations with the embeddings among `keys`; `encoders` are fingerprints by name.

    Raises:
        DataError: if a picture or the sentences are missing, or an encoder is not the one that its fingerprint says.
    """
    made = dict(observations)
    for key in keys:
        found, text = embedding(key), sentence(key)
        name = found[0] if found else text
        if name is None:
            continue
        encoder, source = _encoder(name), f"{PREFIX}{found[1]}" if found else INSTRUCTIONS
        if encoders.get(name, encoder.fingerprint) != encoder.fingerprint:
            raise DataError(f"encoder {name!r} is not the one that was trained on: other weights under the same name")
        if source not in observations:
            raise DataError(f"{key!r} needs observation {source!r}; have: {', '.join(observations)}")
        if found:
            made[key] = _vectors(encoder, observations[source])
        else:
            spoken = np.stack([text_vector(name, one) for one in observations[source].tolist()])
            made[key] = _at_each_time(spoken, observations, keys)
    return made


def _at_each_time(
    spoken: Float32[np.ndarray, "B D"], observations: Mapping[str, np.ndarray], keys: Iterable[str]
) -> Float32[np.ndarray, "B *T D"]:
    """Sentences beside observations of several times."""
    beside = [observations[name] for key in keys if (name := named(key)[0]) in observations]
    times = beside[0].shape[1:-1] if beside else ()
    return np.broadcast_to(spoken.reshape(len(spoken), *(1 for _ in times), -1), (len(spoken), *times, spoken.shape[1]))


@functools.lru_cache(maxsize=1_000)
def text_vector(encoder: str, text: str) -> Float32[np.ndarray, " D"]:
    """Of a sentence, by itself."""
    return _encoder(encoder).texts([text])[0].astype(np.float32)


def _vectors(encoder: DualEncoder, pictures: np.ndarray) -> Float32[np.ndarray, "B *T D"]:
    """One by one, so that none depends on its neighbours, and in half precision, as a store keeps them."""
    each = pictures.reshape(-1, *pictures.shape[-3:])
    found = np.concatenate([encoder.images(one[None]) for one in each]).astype(np.float16)
    return found.astype(np.float32).reshape(*pictures.shape[:-3], -1)


@functools.cache
def _encoder(name: str) -> DualEncoder:
    return DualEncoder.load(name)
