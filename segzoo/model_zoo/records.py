"""A row and a section of the zoo's tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published metric in percent, and how it was measured."""

    metric: str
    value: float
    protocol: str


@dataclass(frozen=True)
class Measured:
    """What was measured on an implementation, the official one or segzoo's.

    Attributes:
        params: parameters, in millions.
        gflops: multiply-adds of one forward pass up to the raw outputs, in 10^9.
        size: height and width of that pass.
        metrics: metric -> percent.
    """

    params: float
    gflops: float
    size: tuple[int, int]
    metrics: dict[str, float]


@dataclass(frozen=True)
class WeightsInfo:
    """A model of the zoo as its authors publish it.

    Attributes:
        name: the configuration's name: `semantic/ade20k/maskformer_r50`.
        method: the paper's name for it.
        backbone: with what the paper adds to it.
        pretraining: what the backbone was trained on before: IN-1k | IN-21k | none.
        schedule: iterations, batch, crop.
        url: the official file; "" if none is published, or not by a direct link.
        page: web page of the file that a person opens, "" if none.
        folder: web page of a folder that has the file, "" if none.
        log: the authors' training log, "" if not published.
        md5_prefix: first hex digits of its md5, "" if not published.
        sha256_prefix: the same of its sha256.
        license: of the weights.
        code_license: of the authors' code, "" if not looked up.
        paper: address.
        repository: address of the code whose numbers these are.
        published: the metrics, each with its protocol.
        params: parameters in millions, as published; None if they are not.
        gflops: multiply-adds in 10^9, as published; None if they are not.
        gflops_size: height and width that `gflops` is for; None if it is not said.
        size: height and width at which segzoo counts; None for the place where the authors did.
        count_with: KEY VALUE overrides for that count, where a network runs in another form than published.
        only_official: parameters that the authors' code and files have beyond those counted here, since
            nothing uses them: number of parameters by the name of the module there.
        model_id: the authors' name of the training run.
        note: anything a user should know.
        official_code: what the authors' code measures with fvcore, at one size; None if not known.
        reproduced: what segzoo measured; None if nothing.
    """

    name: str
    method: str
    backbone: str
    pretraining: str
    schedule: str
    url: str
    page: str
    folder: str
    log: str
    md5_prefix: str
    sha256_prefix: str
    license: str
    code_license: str
    paper: str
    repository: str
    published: tuple[Published, ...]
    params: float | None
    gflops: float | None
    gflops_size: tuple[int, int] | None
    size: tuple[int, int] | None
    count_with: tuple[str | int | float | bool, ...]
    only_official: dict[str, int]
    model_id: str
    note: str
    official_code: Measured | None
    reproduced: Measured | None

    @property
    def task(self) -> str:
        """semantic | panoptic | entity | instance."""
        return self.name.split("/")[0]

    @property
    def dataset(self) -> str:
        """As in the name: ade20k, coco, ..."""
        return self.name.split("/")[1]

    def value(self, metric: str) -> float | None:
        """The published value of a metric in percent, None if it is not published."""
        return next((entry.value for entry in self.published if entry.metric == metric), None)


@dataclass(frozen=True)
class Section:
    """Models that are compared with each other: one method of one source on one dataset.

    Attributes:
        method: the paper's name for it.
        source: short name of whose training it is, "" where there is one only.
        links: paper, repository and readme addresses by what they are.
        folder: web page of the folder that has the files, "" if none.
        code_license: of the authors' code, "" if not looked up.
        title: dataset and task.
        metrics: metric -> protocol, in the order of the columns.
        evaluate_with: metric -> KEY VALUE overrides that evaluate by its protocol, where the configuration's
            own protocol is another.
        models: in the order of the rows, at least one.
    """

    method: str
    source: str
    links: dict[str, str]
    folder: str
    code_license: str
    title: str
    metrics: dict[str, str]
    evaluate_with: dict[str, list[str]]
    models: tuple[WeightsInfo, ...]
