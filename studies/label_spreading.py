"""How far do 100 labels go if they are passed on to the 55,000 training images that have none?

Labels are passed on in two ways. Self-training: what Q4's augmented classifier answers is taken for
the label. Spreading: on a graph that joins each image with its 10 nearest neighbours, labels flow
from image to image (Zhou et al. 2004); the neighbours are those among

    PCA-48              48 principal components of the pixels
    Q1's latents        12, trained to reconstruct
    un-warped latents   12, trained to undo warps                   (studies/pretexts.py)
    views' latents      12, trained to agree on two views           (studies/pretexts.py)
    pixels and views    the first and the last graph, added up: they err on different images

Then a new classifier is trained on all images with these labels, augmented: the labels are all that
differs. The last row starts from the encoder of two views in the place of random weights, and
trains twice as long. Share of right labels among those passed on, and test accuracy: mean ±
standard deviation over the balanced subsets of 3 seeds, three each:

                                    accuracy/unlabelled   accuracy
    scratch, augmented              -                     96.60% ± 0.71
    labels by Q4's answers          96.17% ± 0.63         97.60% ± 0.53
    labels by PCA-48                95.37% ± 0.58         97.63% ± 0.36
    labels by Q1's latents          96.76% ± 0.24         97.90% ± 0.23
    labels by un-warped latents     97.05% ± 0.27         97.85% ± 0.33
    labels by views' latents        95.51% ± 1.39         97.24% ± 0.93
    labels by pixels and views      97.95% ± 0.15         97.96% ± 0.16
    the same, from views' encoder   -                     98.52% ± 0.15

About half of the gain is self-training, which needs no graph, but after Holm so few seeds show
only the last step: the encoder of two views to start from, and training for longer. Between the
graphs no difference is shown in the classifiers trained on their labels, though these are right up
to 2.6 points more often.

Like for like: Poisson learning spreads 100 labels over a graph of 20 latents of a variational
autoencoder, and labels 95.9 +- 0.4 % of MNIST rightly (Calder et al. 2020).

Which differences are real, over seeds and corrected for their number, says the report:
common/report/comparisons.py.

Run:     python -m studies.label_spreading
Needs:   q1_autoencoder.py, q4_few_shot.py, studies/augmentation.py and studies/pretexts.py, run
         before with the same --output-dir
Writes:  outputs/studies/label_spreading/: a checkpoint of every fit, numbers.csv, comparison.png,
         wrong_labels.png
"""

import dataclasses

import numpy
import pandas
import torch
from numpy.typing import NDArray as Array
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from common import checkpoint, data, few_shot, run, train
from common.augment import warp_and_thicken
from common.few_shot import REPORT, Subset
from common.figures import dots, images
from common.models import CLASSES
from q4_few_shot import build_classifier
from q5_transfer import build, loss

COMPONENTS = 48  # of the pixels, four times as many as latents
NEIGHBOURS = 10
ALPHA = 0.99  # as in Zhou et al.: how much of its score a point takes over from its neighbours
ITERATIONS = 50  # more do not improve the labels
WRONG_SHOWN = 16

# Where labels come from. The names are those of the classifiers trained on them, too.
ANSWERS = "labels by Q4's answers"
PIXELS = f"labels by PCA-{COMPONENTS}"
Q1 = "labels by Q1's latents"
UNDO = "labels by un-warped latents"
VIEWS = "labels by views' latents"
BOTH = "labels by pixels and views"
BEST = "the same, from views' encoder"  # and longer
BASELINE = "scratch, augmented"  # studies/augmentation.py, on 100 labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    # Which images are labelled is Q4's, rates and decay are studies/augmentation.py's, both read
    # from their results.
    epochs: int = 2
    """Passes over the 55,000 training images with the labels passed on to them; enough to compare
    labels.
    """
    long_epochs: int = 4
    """The same for the last row, which starts from the encoder of two views."""
    batch_size: int = 256
    """Images per training step."""


def neighbour_graph(points: Array) -> csr_matrix:
    """Return the symmetric weights (N, N) between each point and its 10 nearest neighbours, from
    points (N, D).

    exp(-d^2 / (s s')) with d the distance of two points and s that of a point to its tenth
    neighbour (Zelnik-Manor & Perona 2004), both directions added up.
    """
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points)
    graph = nearest.kneighbors_graph(mode="distance")  # a row has its neighbours by distance
    scale = graph.data[NEIGHBOURS - 1 :: NEIGHBOURS]  # (N,)
    scale = numpy.maximum(scale, numpy.finfo(scale.dtype).tiny)  # ten copies of one image
    graph.data = numpy.exp(-(graph.data**2) / (scale.repeat(NEIGHBOURS) * scale[graph.indices]))
    return graph + graph.T


def spread(graph: csr_matrix, indices: Array, labels: Array) -> Array:
    """Return labels (N,) of all points of a graph, spread from ``labels`` (n,) of the points
    ``indices`` (n,).
    """
    root = diags(1 / numpy.sqrt(numpy.asarray(graph.sum(1)).ravel()))
    smooth = (root @ graph @ root).tocsr()  # a point's weights, over the root of both degrees

    given = numpy.zeros((graph.shape[0], CLASSES))
    given[indices, labels] = 1
    scores = given
    for _ in range(ITERATIONS):
        scores = ALPHA * (smooth @ scores) + (1 - ALPHA) * given

    everywhere = scores.argmax(1)
    everywhere[indices] = labels  # scores can change those given, too
    return everywhere


def build_graphs(results: run.Results, train_images: Tensor) -> dict[str, csr_matrix]:
    """Return the graph of all training images by pixels and by each encoder's latents."""
    encoders = {
        Q1: checkpoint.load(results.path_of("q1_autoencoder"), results.device).encoder,
        UNDO: load_pretext(results, "undo_warps"),
        VIEWS: load_pretext(results, "two_views"),
    }
    pixels = train_images.flatten(1).cpu().numpy()
    points = {PIXELS: PCA(COMPONENTS, random_state=0).fit_transform(pixels)}
    for name, encoder in encoders.items():
        points[name] = train.apply(encoder, train_images).cpu().numpy()

    graphs = {}
    for name, rows in tqdm(points.items(), "neighbours", leave=False, disable=None):
        graphs[name] = neighbour_graph(rows)
    graphs[BOTH] = graphs[PIXELS] + graphs[VIEWS]
    return graphs


def load_pretext(results: run.Results, name: str) -> nn.Module:
    """Return an encoder that studies/pretexts.py has trained."""
    path = results.path_of("studies/pretexts", f"{name}.safetensors")
    return checkpoint.load(path, results.device).encoder


def answers(results: run.Results, subset: Subset, split: data.Split) -> Tensor:
    """Return labels (N,) of all images as the augmented classifier of this subset answers, the
    given ones kept.
    """
    path = results.path_of("studies/augmentation", subset.file_name(BASELINE))
    classifier = checkpoint.load(path, results.device)
    labels = train.apply(classifier, split.images).argmax(1)
    labels[subset.indices] = split.labels[subset.indices]
    return labels


def share_right(labels: Tensor, subset: Subset, split: data.Split) -> float:
    """Return the fraction of right ``labels`` (N,) among the images outside the subset."""
    is_outside = torch.ones_like(labels, dtype=torch.bool)
    is_outside[subset.indices] = False
    return (labels == split.labels)[is_outside].cpu().double().mean().item()


def recipe(results: run.Results, epochs: int) -> train.Recipe:
    """Return how to train on all images: at the rates of augmented training on 100."""
    augmentation = results.options_of("studies/augmentation")
    return train.Recipe(
        epochs=epochs,
        batch_size=results.config.batch_size,
        learning_rate=augmentation.learning_rate,
        weight_decay=augmentation.weight_decay,
        transform=warp_and_thicken,
        record_epochs=(),
    )


def train_on_all(
    model: nn.Module, labels: Tensor, mnist: data.Dataset, how: train.Recipe, seed: int
) -> None:
    """Train a classifier on all training images with the ``labels`` (N,) passed on to them."""
    model.to(mnist.train.images.device, memory_format=torch.channels_last)
    train.fit(model, loss, TensorDataset(mnist.train.images, labels), {}, how, seed)


def log_fit(
    results: run.Results, name: str, subset: Subset, model: nn.Module, test: data.Split
) -> None:
    """Save a classifier, and log what the saved file gives."""
    model = checkpoint.save_and_reload(results.folder / subset.file_name(name), model)
    results.log(train.evaluate(model, loss, test.to_classify()), name, "test", subset.name)


def plot(results: run.Results, numbers: pandas.DataFrame) -> None:
    """Plot the test accuracy with each kind of labels."""
    balanced = numbers[(numbers.measure == "accuracy") & (numbers.subset != REPORT)]
    mean = balanced.groupby(["split", "model"]).value.mean()
    total = mean["test", BEST] - mean["test", BASELINE]
    self_training = mean["test", ANSWERS] - mean["test", BASELINE]
    best_graph = max(mean["test", name] for name in (PIXELS, Q1, UNDO, VIEWS, BOTH))
    nearly = "nearly as much as" if mean["test", ANSWERS] < best_graph else "more than"
    dots.plot_subsets(
        results.folder / "comparison.png",
        f"Labels for all images help, and those that Q4's classifier gives {nearly} the best"
        " graph's",
        f"Test accuracy changes by {100 * self_training:+.1f} points with the classifier's own"
        f" labels, and by {100 * total:+.1f} with those of pixels and views, twice the epochs and"
        f" the encoder of two views to start from. Of the labels are right:"
        f" {mean['unlabelled', ANSWERS]:.1%} by the classifier, {mean['unlabelled', PIXELS]:.1%} by"
        f" a graph of pixels, {mean['unlabelled', Q1]:.1%} of Q1's latents,"
        f" {mean['unlabelled', VIEWS]:.1%} of those of two views, {mean['unlabelled', BOTH]:.1%} of"
        f" pixels and views (seed {results.config.seed}).",
        numbers,
        [BASELINE, ANSWERS, PIXELS, Q1, UNDO, VIEWS, BOTH, BEST],
    )


def plot_wrong(results: run.Results, labels: Tensor, subset: Subset, split: data.Split) -> None:
    """Plot the first training images that are given a wrong label."""
    wrong = torch.nonzero(labels != split.labels)[:, 0]
    shown = wrong[:WRONG_SHOWN]
    texts = []
    for index in shown.tolist():
        texts.append((f"{split.labels[index]} as {labels[index]}", ""))
    images.plot_mistakes(
        results.folder / "wrong_labels.png",
        "Where the labels that are passed on are wrong, one often sees why",
        f"The first {len(shown)} of {len(wrong):,} training images with a wrong label, by"
        f" pixels and views, {subset.name} (seed {results.config.seed}).",
        split.images[shown],
        texts,
    )


def main(config: Config) -> None:
    needs = ("q1_autoencoder", "q4_few_shot", "studies/augmentation", "studies/pretexts")
    results = run.start("studies/label_spreading", config, needs)
    mnist = data.load(config.dataset, config.data_dir, results.device, config.quick)
    graphs = build_graphs(results, mnist.train.images)
    views_encoder = load_pretext(results, "two_views")

    # Q4's balanced subsets.
    q4 = results.options_of("q4_few_shot")
    subsets = few_shot.labelled_subsets(mnist.train.labels, q4.shots, q4.subsets, config.seed)
    balanced_subsets = subsets[1:]
    true_labels = mnist.train.labels.cpu().numpy()

    for subset in tqdm(balanced_subsets, "subsets", leave=False, disable=None):
        # Pass the labels on.
        labels = {ANSWERS: answers(results, subset, mnist.train)}
        for name, graph in graphs.items():
            indices = subset.indices.numpy()
            everywhere = spread(graph, indices, true_labels[indices])
            labels[name] = torch.from_numpy(everywhere).to(results.device)
        for name, of_all in labels.items():
            right = share_right(of_all, subset, mnist.train)
            results.log({"accuracy": right}, name, "unlabelled", subset.name)

        # Train on them: from scratch, so that the labels are all that differs.
        for name, of_all in labels.items():
            model = build_classifier(views_encoder.latent_dim, subset.seed)
            train_on_all(model, of_all, mnist, recipe(results, config.epochs), subset.seed)
            log_fit(results, name, subset, model, mnist.test)

        # From the encoder of two views, and longer.
        model = build(views_encoder, subset.seed)
        long = recipe(results, config.long_epochs)
        train_on_all(model, labels[BOTH], mnist, long, subset.seed)
        log_fit(results, BEST, subset, model, mnist.test)
        if subset is balanced_subsets[0]:
            with run.drawing():
                plot_wrong(results, labels[BOTH], subset, mnist.train)

    others = results.table_of("studies/augmentation", "numbers")
    numbers = pandas.concat([others[others.model == BASELINE], results.numbers])
    with run.drawing():
        plot(results, numbers)

    balanced = numbers[(numbers.measure == "accuracy") & (numbers.subset != REPORT)]
    percent = 100 * balanced.groupby(["model", "split"]).value.mean()
    table = percent.unstack()[["unlabelled", "test"]]
    gain = percent[BEST, "test"] - percent[BASELINE, "test"]
    print(f"labels passed on, from views' encoder, minus 100 labels alone: {gain:+.2f} points")
    print("share of right labels and test accuracy, means of the balanced subsets, %")
    print(table.loc[[BASELINE, ANSWERS, BOTH, BEST]].round(2).to_string(na_rep=""))
    results.finish(mnist.sha256)


if __name__ == "__main__":
    run.command_line(main, Config)
