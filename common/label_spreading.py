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
    """Return the symmetric weights (N, N) of each point's 10 nearest neighbours, from points (N, D).

    exp(-d^2 / (s s')), where s is a point's distance to its tenth neighbour (Zelnik-Manor & Perona 2004), summed over
    the two directions. Graphs of the same points may be added.
    """
    distances, neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points).kneighbors()
    scale = distances[:, -1:]
    weights = numpy.exp(-(distances**2) / (scale * scale[neighbours, 0]))
    ends = numpy.arange(0, weights.size + 1, NEIGHBOURS)
    graph = csr_matrix((weights.ravel(), neighbours.ravel(), ends), shape=(len(points), len(points)))
    return graph + graph.T


def spread(graph: csr_matrix, indices: NDArray, labels: NDArray) -> NDArray:
    """Return labels (N,) int64 of all points of a graph, spread from ``labels`` (n,) of the points ``indices`` (n,).

    The given labels stay as given; scikit-learn's LabelSpreading does not clamp them.
    """
    known = numpy.full(graph.shape[0], -1)  # -1: unlabelled
    known[indices] = labels
    nothing = numpy.zeros((len(known), 1))  # the kernel is the graph, whatever the inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the iterations
        model = LabelSpreading(kernel=lambda *_: graph, alpha=ALPHA, max_iter=ITERATIONS).fit(nothing, known)
    spread_labels = model.transduction_.astype(numpy.int64)
    spread_labels[indices] = labels
    return spread_labels


def compare(
    split: Split, encoders: dict[str, nn.Module], subsets: list[Subset]
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Spread each subset's labels over graphs of all images of ``split``: by the latents of each encoder, over all of
    these graphs added up and, as controls, by principal components of the pixels, as many as latents and four times as
    many.

    Returns the labels by all encoders, by subset's name, and by name of the graph the fraction of right labels among
    the images that are not of the subset, for each class-balanced one.
    """
    pixels, labels = split.inputs.flatten(1).cpu().numpy(), split.targets.cpu().numpy()
    points = {f"{name} latents": train.apply(encoder, split.inputs).cpu().numpy() for name, encoder in encoders.items()}
    dimensions = next(iter(points.values())).shape[1]
    components = PCA(min(4 * dimensions, pixels.shape[1]), random_state=0).fit_transform(pixels)
    controls = {f"PCA-{kept}": components[:, :kept] for kept in (dimensions, components.shape[1])}
    bar = tqdm((points | controls).items(), desc="neighbours", leave=False, disable=None)
    graphs = {name: neighbour_graph(of_graph) for name, of_graph in bar}
    graphs["all latents"] = sum(graphs[name] for name in points)
    shares = {}
    for name, graph in tqdm(graphs.items(), desc="spreading labels", leave=False, disable=None):
        by_subset = {of.name: spread(graph, of.indices.numpy(), labels[of.indices]) for of in subsets}
        right = {of.name: numpy.delete(by_subset[of.name] == labels, of.indices).mean() for of in subsets}
        shares[name] = [float(share) for subset, share in right.items() if subset != "first"]
    # the last graph is that of all latents
    return {name: torch.from_numpy(found).to(split.targets.device) for name, found in by_subset.items()}, shares
