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
COMPONENTS = 48  # of the pixels, four times as many as latents


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


def compare(split: Split, encoders: dict[str, nn.Module], subsets: list[Subset]) -> dict[str, dict[str, Tensor]]:
    """Spread each subset's labels over graphs of all images of ``split``: by each encoder's latents, by all of these
    graphs added up ("both latents") and, as a control, by principal components of the pixels. Return, by name of the
    graph and of the subset, the labels (N,).
    """
    pixels, labels = split.inputs.flatten(1).cpu().numpy(), split.targets.cpu().numpy()
    latents = {f"{name} latents": train.apply(model, split.inputs).cpu().numpy() for name, model in encoders.items()}
    points = latents | {f"PCA-{COMPONENTS}": PCA(COMPONENTS, random_state=0).fit_transform(pixels)}
    graphs = {name: neighbour_graph(points[name]) for name in tqdm(points, "neighbours", leave=False, disable=None)}
    graphs["both latents"] = sum(graphs[name] for name in latents)
    spread_labels: dict[str, dict[str, Tensor]] = {}
    for name, graph in tqdm(graphs.items(), "spreading labels", leave=False, disable=None):
        for subset in subsets:
            by_graph = torch.from_numpy(spread(graph, subset.indices.numpy(), labels[subset.indices]))
            spread_labels.setdefault(name, {})[subset.name] = by_graph.to(split.targets.device)
    return spread_labels


def share_right(labels: Tensor, subset: Subset, split: Split) -> float:
    """Return the fraction of right ``labels`` (N,) among the images of ``split`` outside the subset."""
    outside = torch.ones_like(labels, dtype=torch.bool)
    outside[subset.indices] = False
    return (labels == split.targets)[outside].double().mean().item()
