"""What each measure in numbers.csv is called, and how it is printed: one that is logged needs an
entry in MEASURES.
"""

import dataclasses

import pandas


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a measure is written."""

    words: str
    digits: int = 3
    percent: bool = False  # a fraction, printed as a percentage

    @property
    def last_digit(self) -> float:
        """One unit of the last digit that is printed."""
        return 10.0**-self.digits / (100 if self.percent else 1)

    def format(self, value: float) -> str:
        """Return a value as text, with its unit: 0.0266, 98.9%."""
        return f"{self._shown(value):,.{self.digits}f}" + ("%" if self.percent else "")

    def format_mean(self, mean: float, deviation: float) -> str:
        """Return a mean and, where values differ, their standard deviation as text: 98.9% ± 0.1."""
        text = self.format(mean)
        if not deviation > 1e-6 * abs(mean):  # rounding of float32; true for nan
            return text
        digits = self.format(deviation).removesuffix("%")
        if not digits.strip("0."):  # it is small, not 0
            digits = f"{deviation * (100 if self.percent else 1):.0e}"
        return f"{text} ± {digits}"

    def format_difference(self, value: float) -> str:
        """Return a difference of two values as text, with its sign: -0.0012, +6.9 points."""
        return f"{self._shown(value):+,.{self.digits}f}" + (" points" if self.percent else "")

    def _shown(self, value: float) -> float:
        """Return a value as it is shown: rounded, and 0 in the place of -0."""
        return round(100 * value if self.percent else value, self.digits) + 0.0


MEASURES = {
    # what is minimised or recorded in training
    "l1": Measure("L1 per pixel", 4),
    "mse": Measure("MSE per pixel", 4),
    "bce": Measure("binary cross-entropy per pixel, nats", 4),
    "cross_entropy": Measure("cross-entropy, nats", 3),
    "accuracy": Measure("accuracy", 2, percent=True),
    "averaged_accuracy": Measure("accuracy, averaged over warped copies", 2, percent=True),
    "calibration_error": Measure("calibration error", 2, percent=True),
    # of reconstructions
    "variance_explained": Measure("variance within a digit explained", 3),
    "deviation_kept": Measure("deviation within a digit kept", 3),
    "deviation_correlation": Measure("correlation with the original's deviation", 3),
    "reading_accuracy": Measure("reconstructions read as their digit", 2, percent=True),
    "thickness_slope": Measure(
        "thickness of the reconstruction for each pixel of the original's", 2
    ),
    "slant_slope": Measure("slant of the reconstruction for each of the original's", 2),
    "reading_difference_error": Measure(
        "standard error over test images, of Q3 minus Q1 read as their digit", 2, percent=True
    ),
    "pixel_silhouette": Measure("silhouette of the reconstructions, in pixels", 3),
    # of latents
    "slant_r2": Measure("slant predicted within a digit, R²", 3),
    "thickness_r2": Measure("thickness predicted within a digit, R²", 3),
    "size_r2": Measure("size predicted within a digit, R²", 3),
    "slant_ridge_r2": Measure("slant predicted within a digit, by a ridge, R²", 3),
    "thickness_ridge_r2": Measure("thickness predicted within a digit, by a ridge, R²", 3),
    "size_ridge_r2": Measure("size predicted within a digit, by a ridge, R²", 3),
    "linear_probe_accuracy": Measure("digit predicted by a linear probe", 2, percent=True),
    "latent_silhouette": Measure("silhouette of the latents", 3),
    "latent_correlation": Measure("correlation between two latents, mean absolute", 3),
    "augmentation_share": Measure("share of the latents' variance due to augmentation", 3),
    # of a fit on few examples
    "fitted_step": Measure("step from which all labelled images are right", 0),
    "lowest_loss_step": Measure("step of the lowest test loss", 0),
    "last_over_lowest_loss": Measure("last test loss over the lowest", 2),
    "gain_after_fitted": Measure(
        "test accuracy gained after all labelled images are right", 2, percent=True
    ),
    # of a number of labels with another start
    "worth_in_labels": Measure("labels per digit from scratch that are worth as much", 0),
    # of a model
    "weights": Measure("weights", 0),
    "seconds": Measure("seconds of training", 1),
}


def table(numbers: pandas.DataFrame, models: list[str], measures: list[str]) -> str:
    """Return test numbers as text, a row for each measure and a column for each model.

    Where a model has several labelled subsets, mean and standard deviation over the balanced ones;
    the report's subset is not one of them.
    """
    on_test = numbers[(numbers.split == "test") & (numbers.subset != "report")]
    rows = {}
    for measure in measures:
        form = MEASURES[measure]
        values = on_test[on_test.measure == measure].groupby("model").value
        rows[form.words] = row = {}
        for model in models:
            if model not in values.groups:
                row[model] = ""
                continue
            of_model = values.get_group(model)
            row[model] = form.format_mean(of_model.mean(), of_model.std())
    return pandas.DataFrame.from_dict(rows, orient="index").to_string()
