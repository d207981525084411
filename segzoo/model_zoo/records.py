"""Records of the zoo's tables: sections and rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published metric in percent, and how it was measured."""

    metric: str
    value: float
    protocol: str


@dataclass(frozen=True)
class Measured:
    """Measurements of an implementation, the official one or segzoo's.

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
        method: name in the paper.
        backbone: name, with the paper's additions.
        pretraining: dataset of the backbone's pretraining: IN-1k | IN-21k | none.
        schedule: iterations, batch size, crop.
        url: direct link to the official file; "" if there is none.
        page: web page of the file, for a browser; "" if none.
        folder: web page of the folder with the file; "" if none.
        log: the authors' training log; "" if not published.
        md5_prefix: first hex digits of the file's md5; "" if not published.
        sha256_prefix: first hex digits of its sha256; "" if not published.
        sha1_prefix: first hex digits of the sha1 of the `.params` file in a `.zip`; "" if not published.
        license: license of the weights.
        code_license: license of the authors' code; "" if unknown.
        paper: URL.
        repository: URL of the code that the numbers come from.
        published: the metrics, each with its protocol.
        params: published parameters in millions; None if not published.
        gflops: published multiply-adds in 10^9; None if not published.
        gflops_size: height and width of `gflops`; None if not published.
        size: height and width at which segzoo counts; None for the authors'.
        count_with: KEY VALUE overrides for that count, if a network runs in another form than published.
        only_official: {name of a module in the authors' code: its number of parameters}, for unused modules
            that are not counted here.
        model_id: the authors' name of the training run.
        note: other information for users.
        official_code: measurements of the authors' code with fvcore; None if unknown.
        reproduced: segzoo's measurements; None if there are none.
        train_time: the authors' training time in seconds per iteration; None if not published.
        train_hours: their whole training in hours; None if not published.
        train_memory: the memory of each GPU in that training, in GB; None if not published.
        trained_on: the hardware of these; "" if none of them is published.
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
    sha1_prefix: str
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
    train_time: float | None = None
    train_hours: float | None = None
    train_memory: float | None = None
    trained_on: str = ""

    @property
    def task(self) -> str:
        """semantic | panoptic | entity | instance."""
        return self.name.split("/")[0]

    @property
    def dataset(self) -> str:
        """As in the name: ade20k, coco, ..."""
        return self.name.split("/")[1]

    def value(self, metric: str) -> float | None:
        """Return the published value of a metric in percent; None if it is not published."""
        return next((entry.value for entry in self.published if entry.metric == metric), None)


@dataclass(frozen=True)
class Section:
    """Comparable models: one method from one source on one dataset.

    Attributes:
        method: name in the paper.
        source: short name of the code base that trained them; "" if there is only one.
        links: URLs of "paper", "repository" and "readme".
        folder: web page of the folder with the files; "" if none.
        code_license: license of the authors' code; "" if unknown.
        title: dataset and task.
        metrics: metric -> protocol, in the order of the columns.
        evaluate_with: metric -> KEY VALUE overrides that evaluate by its protocol, if the configuration has
            another one.
        models: rows in their order, at least one.
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
