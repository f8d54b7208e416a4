"""What layers remember of images that they look at, beside lists of which token sees which tile."""

import mlx.core as mx
import numpy as np

from mlxlm.cache import CrossCache

PATCHES = 3  # rows of a tile


def tiles(count: int, seed: int) -> mx.array:
    return mx.random.normal((1, 2, count * PATCHES, 4), key=mx.random.key(seed))


def seen(*rows: str) -> mx.array:
    """A word of 0 and 1 for each token: which tiles it sees."""
    return mx.array([[[c == "1" for c in row] for row in rows]])


def read(cache: CrossCache, start: int, length: int) -> list[str]:
    return ["".join("01"[x] for x in row) for row in np.array(cache.seen_from(start, length)[0]).astype(int)]


def with_two_images() -> CrossCache:
    """Three tokens, of which the last two see one tile; then three, of which the last two see two others."""
    cache = CrossCache()
    cache.see(tiles(1, 0), tiles(1, 1), seen("0", "1", "1"))
    cache.advance(3)
    cache.see(tiles(2, 2), tiles(2, 3), seen("00", "10", "11"))
    cache.advance(3)
    return cache


def test_tokens_see_what_they_are_told_and_later_ones_what_the_last_does():
    cache = with_two_images()
    # A token that sees none of the new tiles goes on with the old.
    assert read(cache, 0, 8) == ["000", "100", "100", "100", "010", "011", "011", "011"]
    assert cache.keys.shape == (1, 2, 3 * PATCHES, 4)
    mask = np.array(cache.mask(4, 1))[0, 0]
    assert mask.tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_taking_tokens_back():
    cache = with_two_images()
    again = cache.copy()
    assert cache.trim(2) == 2 and cache.offset == 4
    assert read(cache, 0, 5) == ["000", "100", "100", "100", "100"]
    assert again.offset == 6 and read(again, 5, 1) == ["011"]
    assert cache.trim(9) == 4 and cache.state == [] and cache.keys is None


def test_rows_of_a_batch_keep_their_own():
    """Three rows of different lengths, pushed to the right so that they end together; one has no image."""
    one, none, two = CrossCache(), CrossCache(), with_two_images()
    one.see(tiles(1, 4), tiles(1, 5), seen("0", "1"))
    one.advance(2)
    none.advance(3)
    merged = CrossCache.merge([one, none, two], [4, 3, 0], [1, 1, 1])
    assert merged.offset == 6 and merged.keys.shape == (3, 2, 3 * PATCHES, 4)
    found = np.array(merged.seen_from(0, 7)).astype(int)
    assert found[0, :, 0].tolist() == [0, 0, 0, 0, 0, 1, 1] and not found[0, :, 1:].any()
    assert not found[1].any()
    assert (found[2] == np.array(two.seen_from(0, 7)).astype(int)).all()
    assert mx.array_equal(merged.keys[0, :, :PATCHES], one.keys[0]) and not merged.keys[0, :, PATCHES:].any()
    assert mx.array_equal(merged.values[2], two.values[0])
