"""Labels of few images, spread over many along a graph of nearest neighbours (Zhou et al. 2004)."""

import warnings

import numpy
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor, nn
from tqdm import tqdm

from common import train
from common.data import Split
from common.few_shot import Subset

NEIGHBOURS = 10
ALPHA = 0.99  # as in the paper: how much a point takes over from its neighbours
ITERATIONS = 50  # more label no better


def neighbour_graph(points: NDArray) -> csr_matrix:
    """Return the symmetric weights (N, N) of each point's 10 nearest neighbours, from points (N, D): exp(-d^2 / (s s'))
    with s a point's distance to its tenth (Zelnik-Manor & Perona 2004), both directions added. Graphs add up too.
    """
    graph = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points).kneighbors_graph(mode="distance")
    scale = graph.data[NEIGHBOURS - 1 :: NEIGHBOURS]  # (N,), as neighbours are in the order of their distances
    graph.data = numpy.exp(-(graph.data**2) / (scale.repeat(NEIGHBOURS) * scale[graph.indices]))
    return graph + graph.T


def spread(graph: csr_matrix, indices: NDArray, labels: NDArray) -> NDArray:
    """Return labels (N,) int64 of all points of a graph, spread from ``labels`` (n,) of the points ``indices`` (n,)."""
    known = numpy.full(graph.shape[0], -1)  # -1: unlabelled
    known[indices] = labels
    model = LabelSpreading(kernel=lambda *_: graph, alpha=ALPHA, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the iterations
        model.fit(known[:, None], known)  # the kernel is the graph, whatever the inputs
    return numpy.where(known < 0, model.transduction_, known).astype(numpy.int64)  # the model changes given ones too


def compare(
    split: Split, encoders: dict[str, nn.Module], subsets: list[Subset]
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Spread each subset's labels over graphs of all images of ``split``: by each encoder's latents, by all of these
    graphs added up and, as controls, by principal components of the pixels, as many as latents and four times as many.
    Return by subset's name the labels (N,) that all latents give, and by graph's name, for each class-balanced subset
    (not the first), the fraction of right labels among the images outside it.
    """
    pixels, labels = split.inputs.flatten(1).cpu().numpy(), split.targets.cpu().numpy()
    latents = {f"{name} latents": train.apply(model, split.inputs).cpu().numpy() for name, model in encoders.items()}
    dimensions = next(iter(latents.values())).shape[1]
    components = PCA(min(4 * dimensions, pixels.shape[1]), random_state=0).fit_transform(pixels)
    points = latents | {f"PCA-{kept}": components[:, :kept] for kept in (dimensions, components.shape[1])}
    graphs = {name: neighbour_graph(points[name]) for name in tqdm(points, "neighbours", leave=False, disable=None)}
    graphs["all latents"] = sum(graphs[name] for name in latents)  # the last, so that its labels are returned
    shares = {}
    for name, graph in tqdm(graphs.items(), "spreading labels", leave=False, disable=None):
        by_subset = {subset.name: spread(graph, subset.indices.numpy(), labels[subset.indices]) for subset in subsets}
        is_right = [numpy.delete(by_subset[subset.name] == labels, subset.indices) for subset in subsets[1:]]
        shares[name] = [float(images.mean()) for images in is_right]
    return {name: torch.from_numpy(given).to(split.targets.device) for name, given in by_subset.items()}, shares
