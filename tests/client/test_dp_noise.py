"""The noise of differential privacy: its variance, its streams, and what it is drawn from."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chi2, kstest
from torch import Tensor

from fedward.common.privacy import noise
from fedward.common.privacy.noise import NoiseSource, SecretNoise, SeededNoise

ERROR_RATE = 1e-6
"""Of each statistical test here: the probability that right noise fails it."""
MILLION = 1_000_000


def sources() -> list[NoiseSource]:
    seeded = SeededNoise(torch.Generator().manual_seed(5), dtype=torch.float64)
    return [SecretNoise(key=bytes(range(32))), seeded]


def variance_p_value(normal: Tensor) -> float:
    """Return how probable a variance at least as far off is, on either side."""
    below = float(chi2.cdf(float(normal.double().square().sum()), len(normal)))
    return 2 * min(below, 1 - below)


@pytest.mark.parametrize("source", sources(), ids=["secret", "seeded"])
def test_the_variance_is_one_and_half_a_percent_more_noise_would_be_seen(
    source: NoiseSource,
) -> None:
    normal = source.normals(MILLION)
    assert variance_p_value(normal) > ERROR_RATE
    assert variance_p_value(normal * 1.005) < ERROR_RATE
    assert variance_p_value(normal * 0.995) < ERROR_RATE


@pytest.mark.parametrize("source", sources(), ids=["secret", "seeded"])
def test_the_shape_is_that_of_a_normal(source: NoiseSource) -> None:
    normal = source.normals(MILLION)
    assert kstest(normal.numpy(), "norm").pvalue > ERROR_RATE
    assert float(normal.abs().max()) < 8.6
    # Halves of a block share radii: cosine and sine of one angle must not be related.
    pairs = normal[: noise.BLOCK].view(2, -1)
    correlation = float(torch.corrcoef(pairs)[0, 1])
    assert abs(correlation) < 5 / (noise.BLOCK / 2) ** 0.5  # 5 deviations: 6e-7
    squares = float(torch.corrcoef(pairs.square())[0, 1])
    assert abs(squares) < 5 / (noise.BLOCK / 2) ** 0.5


@pytest.mark.parametrize("source", sources(), ids=["secret", "seeded"])
def test_uniforms_fill_the_unit_interval(source: NoiseSource) -> None:
    uniform = source.uniforms(MILLION)
    assert uniform.dtype == torch.float64
    assert float(uniform.min()) >= 0.0
    assert float(uniform.max()) < 1.0
    assert kstest(uniform.numpy(), "uniform").pvalue > ERROR_RATE


def test_secret_normals_are_box_and_mullers_of_the_key_stream() -> None:
    key = bytes(range(32))
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    stream = np.frombuffer(encryptor.update(bytes(8 * noise.BLOCK)), dtype="<u8")
    uniform = (stream & np.uint64(2**53 - 1)).astype(np.float64) / 2**53
    u, v = np.split(uniform, 2)
    radius = np.sqrt(-2 * np.log(u + 2.0**-53))
    expected = np.concatenate([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)])
    found = SecretNoise(key).normals(noise.BLOCK).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [0, 1], ids=["secret", "seeded"])
def test_the_stream_does_not_depend_on_the_sizes_that_are_asked_for(kind: int) -> None:
    at_once, in_parts = sources()[kind], sources()[kind]
    sizes = [1, 0, 7, noise.BLOCK - 3, noise.BLOCK, 3 * noise.BLOCK + 1]
    parts = torch.cat([in_parts.normals(size) for size in sizes])
    assert torch.equal(parts, at_once.normals(sum(sizes)))
    assert len(parts.unique()) == len(parts)  # nothing is given out twice


def test_two_secret_sources_have_nothing_in_common() -> None:
    one, other = SecretNoise().normals(1000), SecretNoise().normals(1000)
    assert not set(one.tolist()) & set(other.tolist())


def test_a_forked_process_draws_other_noise() -> None:
    source = SecretNoise()
    source.normals(1)  # the rest of the block is in memory, and would be inherited
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        os.write(writing, source.normals(64).numpy().tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 64 * 8))
    os.close(reading)
    os.close(writing)
    assert not set(theirs.tolist()) & set(source.normals(64).tolist())


def test_a_secret_source_is_never_copied() -> None:
    source = SecretNoise()
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied"):
            copied(source)


def test_only_the_secret_source_says_that_it_is_secret() -> None:
    assert [source.is_secret for source in sources()] == [True, False]
