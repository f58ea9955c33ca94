"""A table or figure of the paper -> which models are measured on what, and what the paper says of the outcome."""

from collections.abc import Sequence
from typing import NamedTuple

from pipelines.reproduction import recipes
from pipelines.reproduction.recipes import BAYES_PFL, RELEASED_OFFSETS, TEXT_ENSEMBLE

IMAGE, PIXEL = ("image_auroc", "image_f1_max", "image_ap"), ("pixel_auroc", "pixel_pro", "pixel_ap")
"""Figures of table 1, by level."""

BRIEF = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")
"""Figures of tables 2 to 4."""

REPORTED_SAMPLES = 10
"""R of every figure but table 3's."""

TARGETS = ("table1", "table2", "table3", "table4", "figure4", "figure5")

DRAWS = "draws of one training"
"""Ends the columns of table 3 whose scatter is over draws of the noise, not over trainings."""


class Model(NamedTuple):
    """One training, or a model that learns nothing."""

    title: str
    seed: int
    auxiliary: str
    """Dataset that it is trained on."""
    epoch: int | None = None
    """Of the training, from 1; None: the last."""
    text_ensemble: bool = False


class Measurement(NamedTuple):
    """A model on a dataset."""

    model: Model
    dataset: str
    draw_seed: int = 0
    """Of the noise of its samples."""


class PlannedFigure(NamedTuple):
    """One cell: the mean over some measurements of one figure."""

    row: str
    column: str
    metric: str
    measured: tuple[Measurement, ...]
    num_samples: int = REPORTED_SAMPLES
    part: str = ""
    """`text_score` or `map_score`: that part of the image score alone."""
    minus: tuple[Measurement, ...] = ()
    """What is subtracted, seed by seed."""


Key = tuple[str, str, str]
"""Row, column and metric of a cell."""


class Comparison(NamedTuple):
    """One cell is larger than another, or than 0."""

    larger: Key
    smaller: Key | None
    of_scatter: bool = False
    """Their standard deviations, not their means."""


class Claim(NamedTuple):
    """What the paper says, as comparisons that all hold if it is so."""

    text: str
    comparisons: tuple[Comparison, ...]


class PlannedTime(NamedTuple):
    """One cell of milliseconds an image."""

    row: str
    column: str
    model: Model
    num_samples: int


class Plan(NamedTuple):
    """Everything of one table or figure."""

    name: str
    title: str
    figures: tuple[PlannedFigure, ...]
    claims: tuple[Claim, ...]
    times: tuple[PlannedTime, ...] = ()


class Scope(NamedTuple):
    """What there is to measure on, and how much of it."""

    datasets: dict[str, tuple[str, ...]]
    """Levels by dataset, in the order of the rows of table 1."""
    main: str
    """Dataset of the ablations: MVTec-AD, or the painted categories."""
    ablated_on: tuple[str, ...]
    """Datasets of figure 5."""
    auxiliary: dict[str, str]
    """By dataset the one that its models are trained on."""
    seeds: int
    draws: int
    num_samples: tuple[int, ...]
    epochs: int
    """Of Bayes-PFL's training."""
    given: bool = False
    """Bayes-PFL is a bundle that exists, and is not trained."""

    def trains(self, title: str) -> bool:
        """Whether there is a training of a model for each seed.

        Args:
            title: of the model.

        Returns:
            False for one that learns nothing or is given.
        """
        return recipes.trains(title) and not (self.given and title == BAYES_PFL)

    def model(self, title: str, seed: int, dataset: str) -> Model:
        """The training that is measured on a dataset.

        Args:
            title: of the model.
            seed: of its training.
            dataset: that it is measured on.

        Returns:
            The model; one that learns nothing has seed 0.
        """
        return Model(title, seed if self.trains(title) else 0, self.auxiliary[dataset])

    def trained(self, title: str, dataset: str) -> tuple[Measurement, ...]:
        """All trainings of a model on a dataset, each with draws of its own.

        Args:
            title: of the model.
            dataset: that it is measured on.

        Returns:
            One for each seed; one alone of a model that learns nothing.
        """
        seeds = range(self.seeds) if self.trains(title) else range(1)
        return tuple(Measurement(self.model(title, seed, dataset), dataset, seed) for seed in seeds)


def planned(name: str, scope: Scope) -> Plan:
    """The plan of a table or figure.

    Args:
        name: one of `TARGETS`.
        scope: what there is to measure on.

    Returns:
        The plan.
    """
    plans = {
        "table1": _methods,
        "table2": _ablations,
        "table3": _samples,
        "table4": _ensembles,
        "figure4": _epochs,
        "figure5": _distributions,
    }
    return plans[name](scope)


def _methods(scope: Scope) -> Plan:
    """Six methods in six columns, a row a dataset and figure."""
    figures = tuple(
        PlannedFigure(dataset, title, metric, scope.trained(title, dataset))
        for dataset, levels in scope.datasets.items()
        for metric in (*(IMAGE if "image" in levels else ()), *(PIXEL if "pixel" in levels else ()))
        for title in recipes.METHODS
    )
    rows = dict.fromkeys((figure.metric, figure.row) for figure in figures)
    claims = []
    for metric in (*IMAGE, *PIXEL):
        on = [dataset for name, dataset in rows if name == metric]
        pairs = [Comparison((row, BAYES_PFL, metric), (row, other, metric)) for row in on for other in recipes.COMPARED]
        if pairs:
            claims.append(Claim(f"Bayes-PFL has the highest {metric} of the six methods", tuple(pairs)))
    return Plan("table1", "Comparison of methods (table 1)", figures, tuple(claims))


def _ablations(scope: Scope) -> Plan:
    """What each component is worth."""
    full, figures = scope.trained(BAYES_PFL, scope.main), []
    for title in recipes.ABLATIONS:
        measured = scope.trained(title, scope.main)
        classified = title in ("without x_cls", "without x_patch")  # the paper gives the image level alone
        figures += [PlannedFigure(title, "", metric, measured) for metric in (BRIEF[:2] if classified else BRIEF)]
    for title, part in recipes.SCORE_PARTS.items():
        figures += [PlannedFigure(title, "", metric, full, part=part) for metric in BRIEF[:2]]
    figures += [PlannedFigure(BAYES_PFL, "", metric, full) for metric in BRIEF]
    claims = []
    for title in (*recipes.ABLATIONS, *recipes.SCORE_PARTS):
        metrics = [figure.metric for figure in figures if figure.row == title]
        pairs = [Comparison((BAYES_PFL, "", metric), (title, "", metric)) for metric in metrics]
        claims.append(Claim(f"Bayes-PFL is above the model {title} in all its figures", tuple(pairs)))
    pairs = [Comparison(("without IAD", "", metric), ("without ISD", "", metric)) for metric in BRIEF]
    claims.append(Claim("leaving ISD out costs more than leaving IAD out", tuple(pairs)))
    return Plan("table2", "Components (table 2)", tuple(figures), tuple(claims))


def _samples(scope: Scope) -> Plan:
    """Numbers of Monte Carlo samples, with small offsets (default) and with those of the released code."""
    figures, claims, times = [], [], []
    titles = {"default offsets": BAYES_PFL, RELEASED_OFFSETS: RELEASED_OFFSETS}
    fewest, most = min(scope.num_samples), max(scope.num_samples)
    for column, title in titles.items():
        over_trainings = scope.trained(title, scope.main)
        first = scope.model(title, 0, scope.main)
        over_draws = tuple(Measurement(first, scope.main, draw) for draw in range(scope.draws))
        for heading, measured in ((column, over_trainings), (f"{column}, {DRAWS}", over_draws)):
            figures += [
                PlannedFigure(f"R = {number}", heading, metric, measured, number)
                for number in scope.num_samples
                for metric in BRIEF
            ]
            cells = [[(f"R = {number}", heading, metric) for metric in BRIEF] for number in (most, fewest)]
            rising = tuple(Comparison(*pair) for pair in zip(*cells, strict=True))
            falling = tuple(Comparison(few, many, of_scatter=True) for many, few in zip(*cells, strict=True))
            claims.append(Claim(f"{heading}: figures are higher at R = {most} than at R = {fewest}", rising))
            claims.append(Claim(f"{heading}: figures scatter less at R = {most} than at R = {fewest}", falling))
        times += [PlannedTime(f"R = {number}", column, first, number) for number in scope.num_samples]
    return Plan("table3", "Monte Carlo samples (table 3)", tuple(figures), tuple(claims), tuple(times))


def _ensembles(scope: Scope) -> Plan:
    """Averaged embeddings against averaged maps, of the same trainings."""
    image = scope.trained(BAYES_PFL, scope.main)
    text = tuple(each._replace(model=each.model._replace(text_ensemble=True)) for each in image)
    rows = {TEXT_ENSEMBLE: text, "image ensemble": image}
    figures = tuple(PlannedFigure(row, "", metric, measured) for row, measured in rows.items() for metric in BRIEF)
    pairs = tuple(Comparison(("image ensemble", "", metric), (TEXT_ENSEMBLE, "", metric)) for metric in BRIEF)
    claims = (Claim("the image ensemble is above the text ensemble in all figures", pairs),)
    times = tuple(PlannedTime(row, "", measured[0].model, REPORTED_SAMPLES) for row, measured in rows.items())
    return Plan("table4", "Ensembles (table 4)", figures, claims, times)


def _epochs(scope: Scope) -> Plan:
    """Pixel AP after every epoch, of one training each."""
    titles = (BAYES_PFL, recipes.SENTENCES, recipes.AGNOSTIC_PROMPT)
    figures = tuple(
        PlannedFigure(
            f"epoch {epoch}",
            title,
            "pixel_ap",
            (Measurement(_after(epoch, scope, title), scope.main),),
        )
        for epoch in range(1, scope.epochs + 1)
        for title in titles
    )
    last = f"epoch {scope.epochs}"
    pairs = tuple(Comparison((last, BAYES_PFL, "pixel_ap"), (last, other, "pixel_ap")) for other in titles[1:])
    claims = (Claim("after the last epoch Bayes-PFL has the highest pixel AP", pairs),)
    return Plan("figure4", "Pixel AP after each epoch of one training (figure 4)", figures, claims)


def _after(epoch: int, scope: Scope, title: str) -> Model:
    """The first training as it is after an epoch."""
    return scope.model(title, 0, scope.main)._replace(epoch=None if epoch == scope.epochs else epoch)


def _distributions(scope: Scope) -> Plan:
    """What ISD-IAD gains over two distributions of one kind."""
    figures = tuple(
        PlannedFigure(
            dataset, f"over {title}", metric, scope.trained(BAYES_PFL, dataset), minus=scope.trained(title, dataset)
        )
        for dataset in scope.ablated_on
        for title in (recipes.ALL_FROM_IMAGE, recipes.ALL_AGNOSTIC)
        for metric in ("image_ap", "pixel_ap")
        if metric.split("_")[0] in scope.datasets[dataset]
    )
    claims = tuple(
        Claim(
            f"ISD-IAD has a higher AP than {title} on every dataset",
            tuple(
                Comparison((figure.row, figure.column, figure.metric), None)
                for figure in figures
                if figure.column == f"over {title}"
            ),
        )
        for title in (recipes.ALL_FROM_IMAGE, recipes.ALL_AGNOSTIC)
    )
    return Plan("figure5", "AP gained by ISD-IAD (figure 5)", figures, claims)


def measurements(plans: Sequence[Plan]) -> dict[Measurement, tuple[int, ...]]:
    """All measurements of some plans.

    Args:
        plans: tables and figures.

    Returns:
        The numbers of samples that are wanted of each, in the plans' order.
    """
    numbers: dict[Measurement, set[int]] = {}
    for figure in (figure for plan in plans for figure in plan.figures):
        for measurement in (*figure.measured, *figure.minus):
            numbers.setdefault(measurement, set()).add(figure.num_samples)
    return {measurement: tuple(sorted(wanted)) for measurement, wanted in numbers.items()}
