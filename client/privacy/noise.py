"""The sources of noise, which the server needs as well: `common/privacy/noise.py`."""

from fedward.common.privacy.noise import NoiseSource, SecretNoise, SeededNoise

__all__ = ["NoiseSource", "SecretNoise", "SeededNoise"]
