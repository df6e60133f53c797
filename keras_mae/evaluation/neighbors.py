"""Images beside images: nearest neighbours, near-duplicates, outliers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

SEARCHES = ("exact", "faiss")
QUERIES = 1024  # at a time
OUTLIER_NEIGHBORS = 10


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Return features of length 1, float32, as all searches here take them; zeros stay zeros."""
    features = np.asarray(features, "float32")
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def check_search(search: str) -> None:
    """Raise unless `search` is one of `SEARCHES`, and its package is there.

    Raises:
        ValueError, ImportError.
    """
    if search not in SEARCHES:
        raise ValueError(f"`search` must be one of {list(SEARCHES)}. Received: {search!r}")
    if search == "faiss":
        try:
            import faiss  # noqa: F401
        except ImportError as error:
            raise ImportError(
                '`search` "faiss" needs faiss: pip install "keras_mae[faiss]".'
            ) from error


def nearest(
    features: np.ndarray, k: int, search: str = "exact"
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the nearest others of each row, by cosine, for some rows after the other.

    A row is never its own neighbour, and copies of it are its first ones.

    Args:
        features: float32 `(n, D)`, rows of length 1, see `unit_rows`; may lie in a file.
        k: int in [1, n - 1].
        search: "exact", by scikit-learn; or "faiss", by lists of neighbourhoods, of which a part is
            searched: faster for hundreds of thousands of images, and some neighbours are missed.
    Yields:
        (first, neighbors, similarity): int, the number of the first of these rows; int64 `(m, k)`
        in [0, n), the nearest first; float32 `(m, k)` in [-1, 1].
    Raises:
        ValueError: if `k` does not fit.
    """
    check_search(search)
    if not 1 <= k < len(features):
        raise ValueError(
            f"`neighbors` must lie in [1, {len(features) - 1}], the other images. Received: {k}"
        )
    find = _exact(features) if search == "exact" else _faiss(features)
    for first in range(0, len(features), QUERIES):
        queries = np.ascontiguousarray(features[first : first + QUERIES])
        similarity, found = find(queries, k + 1)
        own = found == np.arange(first, first + len(queries))[:, None]
        # Among more copies than are asked for it may be missing: then the last one is left out.
        own[~own.any(axis=1), -1] = True
        shape = (len(queries), k)
        yield first, found[~own].reshape(shape), similarity[~own].reshape(shape)


def _exact(features: np.ndarray) -> Any:
    from sklearn.neighbors import NearestNeighbors

    # Of rows of length 1, Euclidean distances are in the order of cosines.
    index = NearestNeighbors(algorithm="brute", metric="euclidean").fit(features)

    def find(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        distances, found = index.kneighbors(queries, n_neighbors=k)
        return (1 - np.square(distances) / 2).astype("float32"), found.astype("int64")

    return find


def _faiss(features: np.ndarray) -> Any:
    import faiss

    count, width = features.shape
    lists = max(1, min(4 * round(count**0.5), count // 39))  # faiss wants 39 images a list
    index: Any = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    step = max(1, count // (256 * lists))
    index.train(np.ascontiguousarray(features[::step]))
    for first in range(0, count, 64 * QUERIES):
        index.add(np.ascontiguousarray(features[first : first + 64 * QUERIES]))
    index.nprobe = max(16, lists // 16)

    def find(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarity, found = index.search(queries, k)
        while (found < 0).any() and index.nprobe < lists:  # lists of fewer images than are wanted
            index.nprobe = min(lists, 2 * index.nprobe)
            similarity, found = index.search(queries, k)
        return similarity, found

    return find


def duplicate_groups(features: np.ndarray, threshold: float) -> np.ndarray:
    """Return which rows are near-duplicates: the number of the group of each.

    Two rows whose cosine is at least `threshold` are of one group, and so are those that are each
    other's by way of others.

    Args:
        features: float32 `(n, D)`, rows of length 1; may lie in a file.
        threshold: float in [-1, 1].
    Returns:
        int64 `(n,)`: equal numbers for the rows of a group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(features)
    groups = np.arange(count)
    # Rounding may leave copies a little under 1.
    least = threshold - 2e-6
    for first in range(0, count, QUERIES):
        queries = np.asarray(features[first : first + QUERIES])
        for other in range(first, count, 8 * QUERIES):
            rows, columns = np.nonzero(
                queries @ np.asarray(features[other : other + 8 * QUERIES]).T >= least
            )
            rows, columns = groups[rows + first], groups[columns + other]
            is_new = rows != columns
            if not is_new.any():
                continue
            pairs = np.unique(np.stack([rows[is_new], columns[is_new]]), axis=1)
            edges = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(count, count))
            groups = connected_components(edges, directed=False)[1][groups].astype("int64")
    return groups
