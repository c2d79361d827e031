"""Every key of the config: its type, its default and what it means. config/README.md is generated from here."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lossatlas.config.model import (
    Conflict,
    Distinct,
    ImportPath,
    Interval,
    Mistake,
    Model,
    Name,
    Named,
    Number,
    Pair,
    Whole,
    ascending,
    form,
    left_out,
    nearest,
)

Iteration = Literal["first", "last"] | Annotated[Whole, Field(ge=0)]
Operator = Literal["hessian", "ggn", "residual"]
Patterns = Annotated[list[str], Field(min_length=1)]
Statistics = Literal["frozen", "recompute", "interpolate"]
Normalization = Literal["none", "model", "layer", "filter"]
Kwargs = dict[str, Any]
TorchProducts = Literal["split", "retained", "rebuild"]
KerasProducts = Literal["nested", "forward"]
TorchPoints = Literal["eager", "folded", "first-layer", "compiled", "vmapped"]
KerasPoints = Literal["graph"]
Precision = Literal["full", "bfloat16"]
Backend = Literal["torch", "tensorflow"]
Scale = Literal["auto", "linear", "log"]

Ascending = Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1), AfterValidator(ascending)]

_SET = "[A-Za-z0-9][A-Za-z0-9_-]*"
_AXIS = "`<directions>/<number>`, counted from 1"
Axis = Annotated[str, form(f"{_SET}/[1-9][0-9]*", _AXIS)]
AxisOrSet = Annotated[str, form(f"{_SET}(/[1-9][0-9]*)?", f"{_AXIS}, or `<directions>` for all of the set")]


class MPI(Model):
    """How MPI rules run."""

    ranks: Whole = Field(2, ge=1, le=65536)
    """Number of MPI ranks of one job."""
    threads_per_rank: Whole = Field(1, ge=1, le=1024)
    """Threads of each rank; ranks x threads should not exceed the cores. Stores are equal bit for bit only at equal
    threads per rank."""
    data_ranks: Literal["auto"] | Annotated[Whole, Field(ge=1, le=16)] = "auto"
    """Ranks that compute one unit of spectra and tracking together, each on its share of the samples and with its part
    of every vector (data parallel); must divide `ranks`. `auto` is 1 as long as there are at least as many units as
    ranks, else as few as leave no rank idle."""
    queue: Literal["counter", "static"] = "counter"
    """How ranks share work. `counter` is a shared counter (one-sided MPI); `static` is a block-cyclic deal for networks
    where one-sided MPI waits."""
    save_minutes: Number = Field(10, gt=0, le=100_000)
    """How often ranks save the state of units of spectra and tracking that take longer; told to stop, they save it at
    once."""


class NameOrImport(Model):
    """Something built in, by its name, or the user's own."""

    BUILT_IN: ClassVar[str | None] = None
    """The name where neither is given."""

    name: str | None = left_out()
    import_: ImportPath | None = left_out()

    @model_validator(mode="after")
    def _choose(self) -> "NameOrImport":
        if self.name is not None and self.import_ is not None:
            raise Conflict("give either 'name' or 'import', not both")
        if self.name is None and self.import_ is None:
            if self.BUILT_IN is None:
                raise Conflict("give 'name' (built in) or 'import' (your own)")
            self.name = self.BUILT_IN
        return self


class NetworkKwargs(Model):
    """Keyword arguments of built-in networks."""

    classes: Whole | None = left_out(ge=1, le=1_000_000)
    """All built-in networks: number of outputs; 10 if left out."""
    width: Whole | None = left_out(ge=1, le=4096)
    """VGG and ResNets: channels of the first stage; 64 if left out, 16 for ResNet-20 to 110 (32, 64 and 128 make them
    2, 4 and 8 times as wide)."""
    batchnorm: bool | None = left_out()
    """VGG: BatchNorm after every layer but the last; true if left out."""
    dropout: Number | None = left_out(ge=0, lt=1)
    """MobileNet-V2: share of the last layer's inputs that are dropped in training; 0.2 if left out."""
    channels: Whole | None = left_out(ge=1, le=4096)
    """LeNet: colours of the images; 3 if left out."""
    inputs: Whole | None = left_out(ge=1, le=100_000_000)
    """MLP: numbers per sample; 3072 if left out."""
    hidden: list[Annotated[Whole, Field(ge=1, le=1_000_000)]] | None = left_out()
    """MLP: widths of the hidden layers; [64, 64] if left out."""
    activation: Literal["relu", "tanh", "softplus", "gelu"] | None = left_out()
    """MLP: what follows each hidden layer; relu if left out."""


TAKEN = {
    "lenet": ("classes", "channels"),
    "mlp": ("inputs", "hidden", "classes", "activation"),
    "vgg": ("classes", "width", "batchnorm"),
    "resnet": ("classes", "width"),
    "mobilenet": ("classes", "dropout"),
}
"""Keyword arguments of the built-in networks, by how their names begin."""

KerasNetwork = Literal[
    "lenet", "mlp", "vgg9", "vgg11",
    "resnet20", "resnet32", "resnet56", "resnet110",
    "resnet20-noshort", "resnet32-noshort", "resnet56-noshort", "resnet110-noshort",
]  # fmt: skip
NetworkName = Literal[KerasNetwork, "resnet50", "mobilenet-v2"]
PretrainedWeights = Literal["imagenet1k-v1", "imagenet1k-v2"]


class Network(NameOrImport):  # type: ignore[no-redef]  # its key `kwargs` is not __init__'s
    """The network."""

    name: NetworkName | None = left_out()
    """A built-in network."""
    import_: ImportPath | None = left_out()
    """`module:function` that returns a `torch.nn.Module`, or with `backend: tensorflow` a built `keras.Model`."""
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of the network's builder; those below of built-in networks."""
    pretrained: PretrainedWeights | None = left_out()
    """`mobilenet-v2` only: begin with torchvision's weights of this name, downloaded into `data_root` (or put there by
    you). A last layer of other than 1000 classes begins with seeded weights; left out all weights do."""

    @field_validator("kwargs")
    @classmethod
    def _check_kwargs(cls, given: dict, others: ValidationInfo) -> dict:
        name = others.data.get("name")
        if name is None:
            return given
        known = next(keys for start, keys in TAKEN.items() if name.startswith(start))
        for key in sorted(given.keys() - known):
            near = nearest(key, [*known])
            raise Mistake(f"{key!r} is not one of {', '.join(known)}" + (f"; did you mean {near!r}?" if near else ""))
        return NetworkKwargs.model_validate(given).model_dump()

    @model_validator(mode="after")
    def _check_pretrained(self) -> "Network":
        if self.pretrained is not None and self.name != "mobilenet-v2":
            raise Conflict("there are published weights of 'mobilenet-v2' only", "pretrained")
        return self


Colours = Annotated[list[Number], Field(min_length=3, max_length=3)]


class ImageFolderKwargs(Model):
    """Keyword arguments of `image-folder`; left out they are what networks for ImageNet are evaluated with."""

    folder: str
    """Where the images are: `train/<class>/*.JPEG` and `val/<class>/*.JPEG` as of ImageNet (or `test`; `val` may be
    missing), or the lists `images.txt`, `image_class_labels.txt` and `train_test_split.txt` beside `images/` of
    CUB-200-2011."""
    resize: Whole = Field(256, ge=1, le=65536)
    """Pixels that the shorter side is scaled to (bilinear, antialiased, as torchvision's `Resize`)."""
    crop: Whole = Field(224, ge=1, le=65536)
    """Width and height of what is cut out of the middle."""
    mean: Colours = Field([0.485, 0.456, 0.406])
    """Mean of each colour, in [0, 1], which is subtracted."""
    std: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=3, max_length=3)] = Field(
        [0.229, 0.224, 0.225]
    )
    """Standard deviation of each colour, which is divided by."""


class Data(NameOrImport):  # type: ignore[no-redef]  # as in Network
    """The dataset."""

    BUILT_IN = "fashion-mnist-mini"
    name: Literal["fashion-mnist-mini", "fashion-mnist", "cifar10", "cifar100", "image-folder"] | None = left_out()
    """A built-in dataset; all but the first and last are downloaded into `data_root` (or put there by you)."""
    import_: ImportPath | None = left_out()
    """`module:function` that returns `{"train": samples, "test": samples}`; `test` may be missing. Samples are a pair
    (inputs, targets) of arrays or tensors, or are read when they are needed: a map-style data set (PyTorch's, Hugging
    Face's) of pairs or dicts, a stream, of which the first samples are taken, or a `DataLoader`, of which data set and
    `collate_fn` are used. Inputs of a network that takes several are a dict by its arguments' names (`input_ids`,
    `attention_mask`; of a Keras model those of its `keras.Input`) or a tuple; in a sample that is a dict the targets
    are `labels` (or `label`, `label_ids`, `targets`, `target`, `y`)."""
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of the dataset's loader; those below of `image-folder`."""
    memory_gb: Number | None = left_out(gt=0)
    """What samples that are read when they are needed may take then, for each split; 8 if left out. More ends a job
    before they are read."""

    @field_validator("kwargs")
    @classmethod
    def _check_kwargs(cls, given: dict, others: ValidationInfo) -> dict:
        return (
            ImageFolderKwargs.model_validate(given).model_dump() if others.data.get("name") == "image-folder" else given
        )

    @model_validator(mode="after")
    def _check_needs(self) -> "Data":
        if self.name == "image-folder" and not self.kwargs:
            raise Conflict("give 'kwargs' with the 'folder' of the images", "kwargs")
        if self.name not in (None, "image-folder") and self.kwargs:
            raise Conflict("built-in datasets take none; they belong to 'import'", "kwargs")
        return self


class Loss(NameOrImport):
    """The loss."""

    BUILT_IN = "cross-entropy"
    name: Literal["cross-entropy", "mse", "next-token"] | None = left_out()
    """A built-in loss, averaged over the samples. Where a PyTorch model returns a mapping `cross-entropy` takes its
    `logits`, where it returns a tuple the first tensor. `next-token` (PyTorch only) is that of causal language models:
    scores (sample, place, token) against the token one place on, so that `labels` may be the `input_ids` themselves;
    those of -100 do not count."""
    import_: ImportPath | None = left_out()
    """`module:function` with the arguments (outputs, targets) that returns the mean over the batch, or one value per
    sample or position (averaged plainly); or an `nn.CrossEntropyLoss` or `nn.NLLLoss` by name, whose weights and
    ignored targets count over all samples."""


class Schedule(Model):  # type: ignore[no-redef]  # as in Network
    """A learning-rate schedule."""

    name: str
    """Class name in `torch.optim.lr_scheduler`, such as `StepLR`, `CosineAnnealingLR` or `OneCycleLR`. With `backend:
    tensorflow` one in `keras.optimizers.schedules`, or `StepLR`, `MultiStepLR`, `ExponentialLR` or
    `CosineAnnealingLR`."""
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of the schedule; all counts are iterations."""


class Train(Model):
    """How a run is trained."""

    optimizer: str = form("[A-Z][A-Za-z0-9]*", "the name of a class of the framework, such as SGD", default="SGD")
    """Class name of an optimiser in `torch.optim`, or with `backend: tensorflow` in `keras.optimizers`."""
    optimizer_kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of the optimiser, such as `momentum`, `weight_decay` and `nesterov`. Keras's optimisers take
    PyTorch's `betas`, `eps` and `alpha` too, and `weight_decay` means what it means in PyTorch."""
    learning_rate: Number = Field(0.01, gt=0)
    """Initial learning rate."""
    schedule: Schedule | None = left_out()
    """Learning-rate schedule, stepped once per iteration; left out the rate stays constant."""
    batch_size: Whole = Field(128, ge=1)
    """Samples per mini-batch; a ragged last batch is kept."""
    epochs: Number = Field(1, gt=0, le=1_000_000)
    """Passes over the training set; fractions are allowed."""
    record_every: Whole = Field(1, ge=1)
    """Record every n-th iteration; the first and the last are always recorded."""
    threads: Whole = Field(2, ge=1, le=1024)
    """Threads of training. The trajectory is equal bit for bit only at equal threads."""


class Checkpoints(Model):
    """Checkpoints that are there already."""

    files: str | Annotated[list[str], Field(min_length=1)]
    """What `lossatlas.record` wrote, one `trajectory.zarr`; or a list, or a glob in natural order, of `.pt`, `.pth`,
    `.ckpt` (Lightning) or `.safetensors` state dicts, loaded weights-only. With `backend: tensorflow` of `.keras` or
    `.weights.h5` files, of which the weights are read, or what `KerasRecorder` wrote. State dicts that lack frozen
    parameters (adapters) are laid over what the model's builder gives these."""
    iterations: Ascending | None = left_out()
    """The iteration of each file. Left out they are the numbers in the names, where these ascend: after `step`, `iter`
    or `checkpoint`, or the last whole number (`step0.pt, step5.pt`); else `step`, `global_step` or `iteration` in the
    files; else 0, 1, 2."""
    losses: list[Number] | None = left_out()
    """The mini-batch loss of each file, for figures. Left out it is `loss` in the files, where there is one."""


class Evaluation(Model):
    """The samples on which surfaces are evaluated."""

    train_samples: Whole = Field(1000, ge=1)
    """Training samples of the evaluation subset (capped at the size of the training set)."""
    test_samples: Whole | None = left_out(ge=0)
    """Test samples of the evaluation subset; 0 leaves the test set out. Left out it is 500, and 0 for data without a
    test set."""
    batch_size: Whole = Field(250, ge=1)
    """Samples per forward pass; results agree to rounding for any value."""
    seed: Whole = Field(0, ge=0)
    """Seed of the choice of samples."""


class Checkpoint(Model):
    """A recorded iteration of a run."""

    run: str | None = left_out()
    """Name of another run of this config; left out it is the run itself."""
    iteration: Iteration = "last"
    """A recorded iteration, `first` or `last`."""


class End(Checkpoint):
    """A recorded iteration of a run, at the end of a curve."""

    align: bool | None = left_out()
    """Bring the hidden units of this network into the order of those where the curve begins, by weight matching (git
    re-basin, Ainsworth et al. 2022): the same function, less far away. BatchNorm's statistics move along. A straight
    curve is drawn beside that to the network as it was trained. PyTorch only; a network that is not understood is
    refused."""


class Chunks(Model):
    """How derivatives are taken over the samples."""

    batch_size: Whole = Field(100, ge=1)
    """Samples per chunk of a Hessian product or a gradient."""
    batchnorm: Literal["frozen", "batch"] = "frozen"
    """What BatchNorm normalises by: its running statistics, or mean and variance over each chunk of `batch_size`
    samples, as in training; derivatives then pass through them. Loss and gradient are of the same kind."""


class ProductWay(Model):
    """How Hessian products are computed."""

    memory_gb: Number = Field(2, gt=0, le=100_000)
    """Memory of each rank for Hessian products, values kept between them and what one works with; not counted are the
    interpreter, the network, the samples and the Lanczos vectors. What cannot be kept is computed anew, and samples are
    cut into smaller pieces."""
    strategy: Literal["auto", TorchProducts, KerasProducts] = "auto"
    """How Hessian products are computed: `split` multiplies blocks of vectors forward and keeps what does not depend on
    them, `retained` keeps the gradient's graph, `rebuild` keeps nothing. With `backend: tensorflow` it is `nested`, a
    second backward pass, or `forward`, a forward pass through both. They differ by rounding. `auto` measures which is
    fastest, once, when the store is begun; the store names it."""


class Products(ProductWay, Chunks):
    """How Hessian products are computed, and over which chunks of samples."""


class Matrix(Products):
    """A matrix that is known by its products."""

    operator: Operator = "hessian"
    """The Hessian; its generalised Gauss-Newton part J'(d²l/df²)J; or the rest, Hessian - GGN."""
    parameters: Patterns = Field(["*"])
    """Restrict the matrix to the parameters whose names match any of these patterns, such as `11.*`, the last layer of
    LeNet (layer-wise spectra); names are those of `module.named_parameters()`."""


class Search(Model):
    """A search for eigenvectors at the ends of the spectrum."""

    largest: Whole = Field(2, ge=0, le=1000)
    """How many of the largest eigenvalues' eigenvectors, numbered from 1."""
    smallest: Whole = Field(0, ge=0, le=1000)
    """How many of the smallest (most negative) ones, numbered after the largest, in descending order."""
    tolerance: Number = Field(0.001, gt=0)
    """Residual ||Hy - λy|| relative to ||H|| at which a pair has converged."""
    max_products: Whole = Field(300, ge=1, le=1_000_000)
    """Hessian products after which the search ends, converged or not (the store says which)."""
    seed: Whole = Field(0, ge=0)
    """Seed of the searches' random vectors."""

    @model_validator(mode="after")
    def _check_pairs(self) -> "Search":
        self._check_ends()
        return self

    def _check_ends(self) -> None:
        pairs = self.largest + self.smallest
        if pairs == 0:
            raise Conflict("largest and smallest are both 0; ask for at least one eigenvector")
        if self.max_products < pairs:
            raise Conflict(f"{self.max_products} is less than largest + smallest, {pairs}", "max_products")


class DirectionsBase(Model):
    """What all kinds of directions have."""

    CHOSEN_BY = ("kind",)
    kind: str
    """Gaussian vectors, principal components of the path, differences of checkpoints, Hessian eigenvectors, negative
    gradients, directions mined by descent, a trained curve of low loss to another minimum, or vectors from a file."""
    center: Iteration = "last"
    """The checkpoint theta_c that the directions belong to; normalisation takes its norms, PCA and differences start
    there."""
    normalize: Normalization = "filter"
    """Scale each direction to the norms of theta_c: not at all, as one vector (Norm), per layer, weights and biases of
    a module together (LayNorm), or per filter (FilNorm; Li et al.). Left out it is `filter`, and `none` for
    `difference`, `eigen` and `gradient`, whose directions it would bend."""
    ignore: Distinct[Literal["bias", "norm"]] = Field(["bias", "norm"])
    """Kinds of parameters that are set to zero in each direction (biases; scales and shifts of normalisation layers).
    Left out it is both, and neither for `difference`, `eigen` and `gradient`."""


class Threaded(Model):
    """Directions that do not depend on MPI."""

    threads: Whole = Field(2, ge=1, le=1024)
    """Threads; `pca` takes the ranks and threads of `mpi` and does not depend on them. Directions are equal bit for bit
    only at equal threads."""


class Unbent(Model):
    """Directions that normalisation would bend."""

    normalize: Normalization = "none"
    ignore: Distinct[Literal["bias", "norm"]] = Field([])


class Drawn(Model):
    """Directions of which there are as many as one likes."""

    count: Whole = Field(2, ge=1, le=1000)
    """Number of directions; of `gradient` only with `samples`, of `eigen` only with `near`, of `mined` (1 if left out)
    with `w-peak`: they differ in λ and the order of the batches."""
    seed: Whole = Field(0, ge=0)
    """Seed of `random` directions, of the batches of `gradient`, of the search of `eigen` and of the randomized PCA
    solver."""


class Random(DirectionsBase, Drawn, Threaded):
    """Gaussian vectors."""

    kind: Literal["random"]


class PCA(DirectionsBase, Drawn):
    """Principal components of the path."""

    kind: Literal["pca"]
    center_rows: bool = True
    """Subtract the mean row, as sklearn does. Without, the share of variance is a share of the second moment about
    theta_c and is labelled so."""
    solver: Literal["gram", "randomized", "incremental"] = "gram"
    """The streamed Gram matrix (exact, bounded memory), or sklearn's randomized or incremental solver."""

    @model_validator(mode="after")
    def _check_solver(self) -> "PCA":
        if self.solver == "incremental" and not self.center_rows:
            raise Conflict("'incremental' always centres; set center_rows: true or solver: gram", "solver")
        return self


class Difference(Unbent, DirectionsBase, Threaded):
    """Differences of checkpoints."""

    kind: Literal["difference"]
    to: list[Checkpoint] = Field(min_length=1)
    """One direction theta_to - theta_c for each entry; of `mined` where φ starts, such as `{run: other, iteration:
    first}`, the initial weights of another run."""


class Eigen(Unbent, DirectionsBase, Search, Products, Threaded):
    """Hessian eigenvectors."""

    kind: Literal["eigen"]
    near: Number | None = left_out()
    """In place of `largest` and `smallest`: eigenvectors of the `count` eigenvalues nearest to this number, such as 0.0
    for flat directions, numbered from the nearest. Eigenvalues around zero are denser than any residual; such a vector
    is one of a space of many, which the log and the store say (`isolated`)."""
    count: Whole | None = left_out(ge=1, le=1000)

    def _check_ends(self) -> None:
        if self.near is None:
            if self.count is not None:
                raise Conflict("needs 'near'; at the ends of the spectrum give 'largest' and 'smallest'", "count")
            super()._check_ends()
            return
        for key in ("largest", "smallest"):
            if key in self.model_fields_set and getattr(self, key) != 0:
                raise Conflict("belongs to the ends of the spectrum; with 'near' give 'count'", key)
            setattr(self, key, 0)
        if self.count is None:
            self.count = Drawn.model_fields["count"].default
        if self.max_products < 2 * self.count:
            raise Conflict(f"{self.max_products} is less than twice 'count', {self.count}", "max_products")


class Gradient(Unbent, DirectionsBase, Chunks, Threaded):
    """Negative gradients."""

    kind: Literal["gradient"]
    samples: Whole | None = left_out(ge=1)
    """Samples of each batch, drawn by `seed` from the training samples of the evaluation subset; left out it is the
    gradient over all of them."""
    count: Whole | None = left_out(ge=1, le=1000)
    seed: Whole | None = left_out(ge=0)

    @model_validator(mode="after")
    def _draw(self) -> "Gradient":
        for key in ("count", "seed"):
            if self.samples is not None and getattr(self, key) is None:
                setattr(self, key, Drawn.model_fields[key].default)
            elif self.samples is None and getattr(self, key) is not None:
                raise Conflict("needs 'samples'; the gradient over all samples is one", key)
        return self


class Mined(Unbent, DirectionsBase, Chunks):
    """Directions mined by descent (Li et al. 2024)."""

    kind: Literal["mined"]
    algorithm: Literal["w-peak", "vvv-basin"]
    """`w-peak` minimises the mean loss at center + λ d, λ in [-a, a], a growing to 1 over the epochs, from d = 0
    (Algorithm 1). `vvv-basin` minimises L(φ) + γ L((1 - λ) center + λ φ), λ in [0.5 - α, 0.5 + α]; d = φ - center
    (Algorithm 2)."""
    epochs: Whole = Field(20, ge=1, le=100_000)
    """Passes over the training samples of the evaluation subset, in batches of `batch_size` at most: a partition drawn
    by `seed`, visited in another order every epoch."""
    learning_rate: Number = Field(0.1, gt=0)
    """Constant step size of plain gradient descent."""
    batch_size: Whole = Field(100, ge=1)
    batchnorm: Literal["frozen", "batch"] = "batch"
    seed: Whole = Field(0, ge=0)
    count: Whole | None = left_out(ge=1, le=1000)
    to: list[Checkpoint] | None = left_out(min_length=1)
    gamma: Distinct[Annotated[Number, Field(ge=0)]] | None = left_out(min_length=1)
    """`vvv-basin`: weights γ; there is one direction for each start, γ and α. [0.1] if left out."""
    alpha: Distinct[Annotated[Number, Field(ge=0, le=0.5)]] | None = left_out(min_length=1)
    """`vvv-basin`: half widths α of the interval of λ; [0] if left out."""

    @model_validator(mode="after")
    def _choose_algorithm(self) -> "Mined":
        peak = self.algorithm == "w-peak"
        for key in ("to", "gamma", "alpha") if peak else ("count",):
            if getattr(self, key) is not None:
                raise Conflict(f"belongs to algorithm: {'vvv-basin' if peak else 'w-peak'}", key)
        if not peak and self.to is None:
            raise Conflict("'vvv-basin' needs 'to', the checkpoints at which φ starts", "algorithm")
        own = {"count": 1} if peak else {"gamma": [0.1], "alpha": [0]}
        for key, default in own.items():
            setattr(self, key, getattr(self, key) or default)
        return self


class Connection(Unbent, DirectionsBase, Chunks):
    """A trained curve of low loss from `center` to another minimum (Garipov et al. 2018)."""

    kind: Literal["connection"]
    to: End
    """The checkpoint where the curve ends. Direction 1 leads there and direction 2 to the bend, so that a plane of both
    holds the curve, which is drawn on it."""
    curve: Literal["bezier", "chain"] = "bezier"
    """A quadratic Bezier curve, or a polygonal chain of two straight pieces."""
    epochs: Whole = Field(20, ge=1, le=100_000)
    """Passes over the training samples of the evaluation subset, in batches of `batch_size` at most: a partition drawn
    by `seed`, visited in another order every epoch. Each step draws one t of [0, 1] and moves the bend, which starts
    halfway between the ends."""
    learning_rate: Number = Field(0.1, gt=0)
    batch_size: Whole = Field(100, ge=1)
    batchnorm: Literal["frozen", "batch"] = "batch"
    seed: Whole = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_unbent(self) -> "Connection":
        for key, none in (("normalize", "none"), ("ignore", [])):
            if getattr(self, key) != none:
                raise Conflict("would move the end and the bend; leave it out", key)
        return self


class File(DirectionsBase, Threaded):
    """Vectors from a file."""

    kind: Literal["file"]
    path: str
    """An `.npy` array (direction, parameter), or an `.npz`, `.pt` or `.safetensors` of flat vectors or of
    state-dict-like tensors `<direction>/<parameter name>`."""


Directions = Annotated[
    Random | PCA | Difference | Eigen | Gradient | Mined | Connection | File, Field(discriminator="kind")
]


class GridBase(Model):
    """Which points of a grid are evaluated."""

    CHOSEN_BY = ("mode",)


class FullGrid(GridBase):
    """All points."""

    mode: Literal["full"] = "full"
    """All points; or `adaptive`, point by point where interpolation is not good enough, until `tolerance` is kept. The
    rest is interpolated, and the store says which (`evaluated`)."""


class AdaptiveGrid(GridBase):
    """Points where interpolation is not good enough."""

    mode: Literal["adaptive"]
    tolerance: Number = Field(0.01, gt=0, lt=1)
    """Largest error of the interpolated loss, as a share of the surface's range up to `maximum`, on the drawn scale."""
    scale: Scale = "auto"
    """The scale on which the surface is interpolated and its error counts; best that of `figures.scale`. `auto` is
    logarithmic when the surface spans more than a factor of 30."""
    maximum: Number | None = left_out(gt=0)
    """What lies above this loss needs no accuracy; best that of `figures.maximum`. Left out the whole surface does."""


def mode(grid: Any) -> str:
    """Return what a grid is chosen by."""
    return str(grid.get("mode", "full") if isinstance(grid, dict) else getattr(grid, "mode", "full"))


Grid = Annotated[Annotated[FullGrid, Tag("full")] | Annotated[AdaptiveGrid, Tag("adaptive")], Discriminator(mode)]


class Range(Model):
    """A range of a plane."""

    x: Interval | None = left_out()
    """[from, to] in units of the direction."""
    y: Interval | None = left_out()
    """[from, to] in units of the direction."""


class Curvature(Matrix):
    """A map of Hessian eigenvalues."""

    points: Pair[Annotated[Whole, Field(ge=2, le=1000)]] = Field([9, 9])
    """Grid points along x and y."""
    tolerance: Number = Field(0.01, gt=0)
    """Residual ||Hy - λy|| relative to ||H|| at which a pair has converged."""
    max_products: Whole = Field(200, ge=2, le=1_000_000)
    """Hessian products at one grid point after which the search ends, converged or not (the store says which)."""
    seed: Whole = Field(0, ge=0)
    """Seed of the starting vectors."""


class Points(Model):
    """How points are evaluated."""

    points_per_chunk: Whole | None = left_out(ge=1, le=10_000)
    """Points that a rank claims and writes at once; left out it is 4, or more where a store would exceed 2000
    chunks."""
    strategy: Literal["auto", TorchPoints, KerasPoints] = "auto"
    """How points are evaluated: `eager` runs the network; `folded` runs its graph, with BatchNorm in the weights before
    it; `first-layer` also keeps what the first layers make of the samples, which is affine in x and y; `compiled` also
    compiles the rest, where a C++ compiler and Python's headers are there; `vmapped` sends four points at once through
    the rest, which `auto` tries on GPUs only. With `backend: tensorflow` it is `graph`. They differ by rounding. A
    network that allows less gets less. `auto` measures which is fastest, once, when the store is begun; the store names
    it."""
    precision: Precision = "full"
    """`bfloat16` passes samples through the network in that precision, which is faster on processors that have it; the
    store says how far the loss is off at the corners and in the middle. `full` is the run's `dtype`, the only one with
    `backend: tensorflow`."""
    batchnorm: Statistics = "frozen"

    @model_validator(mode="after")
    def _check_statistics(self) -> "Points":
        for key, plain in (("strategy", ("auto", "eager")), ("precision", ("full",))):
            if self.batchnorm != "frozen" and getattr(self, key) not in plain:
                raise Conflict(f"{getattr(self, key)!r} needs batchnorm: frozen; leave it out", key)
        return self


class Plane(Points):
    """A plane of the surface."""

    x: Axis
    """Direction of the x axis as `<directions>/<number>`, counted from 1."""
    y: Axis
    """Direction of the y axis, likewise."""
    center: Iteration = "last"
    """The checkpoint at the origin of the plane."""
    orthogonalize: bool = False
    """Make y orthogonal to x (Gram-Schmidt on the directions in use); y is not scaled to its former length. The store
    has the angle before."""
    points: Pair[Annotated[Whole, Field(ge=2, le=10_000)]] = Field([25, 25])
    """Grid points along x and y."""
    grid: Grid = Field(default_factory=FullGrid)
    """Which points of the grid are evaluated. Either way coarse lattices come first."""
    border: Number = Field(0.4, ge=0, le=1000)
    """The range is the extent of the projected paths plus this share of it on each side (GradVis)."""
    range: Range | None = left_out()
    """A fixed range instead of the path's extent, which on random directions is tiny: [-1, 1] shows their
    surroundings."""
    paths: Distinct[str] | None = left_out()
    """Other runs of this config, with the same network, whose paths are projected onto the plane and drawn; the range
    includes them."""
    paths_losses: bool = True
    """Evaluate the checkpoints of `paths` and their projections too: two evaluations of each subset per checkpoint.
    Without, only their positions are stored."""
    batchnorm: Statistics = "frozen"
    """What BatchNorm normalises by on the plane. `frozen`: the running statistics of `center`. `recompute`: at each
    point those of its own parameters, from one more pass of all training samples of the evaluation subset at once,
    layer by layer (mean and unbiased variance, as after a pass in training mode; it takes memory for that); Li et al.
    2024 call this UpBN, and `frozen` No UpBN. `interpolate`: running statistics move along with the parameters,
    variances clipped at zero (the store counts them); only for axes that are differences, neither normalised nor
    stripped of parameters nor made orthogonal."""
    curvature: Curvature | None = left_out()
    """The largest and the smallest Hessian eigenvalue, their ratio (Li et al.'s map of |λ_min / λ_max|) and the norm of
    the gradient at grid points over the range of the plane, on the training samples of the evaluation subset; left out
    there is none."""

    @model_validator(mode="after")
    def _check_plane(self) -> "Plane":
        if self.x == self.y:
            raise Conflict(f"x and y are both {self.x!r}; a plane needs two directions")
        if self.strategy == "eager" and self.precision != "full":
            raise Conflict(f"{self.precision!r} needs another strategy than 'eager'; leave it out", "precision")
        return self


class View(Model):
    """A part of a curve's figure."""

    x: Interval | None = left_out()
    """[from, to] of the drawn positions; left out it is the whole range."""
    loss: Interval | None = left_out()
    """[from, to] of the drawn losses; what lies above or below is marked at the edge."""


class SecondOrder(ProductWay):
    """Derivatives of a curve."""

    at: Annotated[list[Number], Field(min_length=1), AfterValidator(ascending)]
    """Positions, added to the curve's points where they are not among them. The figure draws the approximations around
    each, as far as halfway to the next (Li et al. 2024, Fig. 14, take 11 from -1 to 0)."""


class CurveBase(Points):
    """What all kinds of curves have."""

    CHOSEN_BY = ("x", "to", "connection")
    MUST_HOLD: ClassVar[tuple[int, ...]] = (0,)
    """Positions within the range."""

    range: Interval
    """[from, to] in multiples of the direction (the view scale of Li et al. 2024), with 0 in it, and for `to` and
    `connection` 1 also; left out it is [-1, 1], for `to` [-0.5, 1.5] and for `connection` [0, 1]."""
    points: Whole = Field(41, ge=3, le=1_000_000)
    """Equally spaced points over the range; 0, and for `to` and `connection` 1, are added where they are not among
    them."""
    batchnorm: Statistics
    """What BatchNorm normalises by, as on planes: the running statistics of `center` or `from`; those of each point's
    own parameters, from one more pass of all training samples of the evaluation subset (UpBN); or, for `to` alone,
    statistics that move along with the parameters (variances below zero are set to zero and counted). Left out it is
    `frozen` for `x`, `interpolate` for `to` and `recompute` for `connection`."""
    view: View = Field(default_factory=View)
    """What the figure shows; not in the store."""

    @model_validator(mode="after")
    def _check_range(self) -> "CurveBase":
        for position in self.MUST_HOLD:
            if not self.range[0] <= position <= self.range[1]:
                raise Conflict(f"{self.range} must hold {position}", "range")
        return self


class Straight(Model):
    """What curves on straight lines have."""

    second_order: SecondOrder | None = left_out()
    """First and second derivative of the loss along the curve, b = d'g and a = d'Hd (Li et al. 2024, Eq. 1), at some of
    its points, for each subset of samples; left out there are none. BatchNorm must be `frozen` where there is any."""

    @model_validator(mode="after")
    def _check_positions(self) -> "Straight":
        low, high = getattr(self, "range")  # noqa: B009  # of the curve
        for position in self.second_order.at if self.second_order else []:
            if not low <= position <= high:
                raise Conflict(f"{position} is not in the range {[low, high]}", "second_order.at")
        return self


class CurveAlong(Straight, CurveBase):
    """Curves through one checkpoint along directions."""

    x: AxisOrSet | Annotated[list[AxisOrSet], Field(min_length=1)]
    """Directions, one curve each: `<directions>/<number>`, `<directions>` for all of a set, or a list of these. Give
    one of `x`, `to` and `connection`."""
    center: Iteration = "last"
    """The checkpoint at position 0."""
    range: Interval = Field([-1, 1])
    batchnorm: Statistics = "frozen"

    @model_validator(mode="after")
    def _check_batchnorm(self) -> "CurveAlong":
        _refuse_interpolation(self.batchnorm)
        return self


def _refuse_interpolation(batchnorm: str) -> None:
    if batchnorm == "interpolate":
        ends = "a checkpoint at either end, which curves with 'to' have"
        raise Conflict(f"'interpolate' needs {ends}; choose 'frozen' or 'recompute'", "batchnorm")


class CurveBetween(Straight, CurveBase):
    """A curve between two checkpoints and beyond."""

    MUST_HOLD = (0, 1)
    from_: Iteration = "last"
    """The recorded iteration of this run at position 0."""
    to: End
    """The checkpoint at position 1, of this run or of another one with the same network."""
    range: Interval = Field([-0.5, 1.5])
    batchnorm: Statistics = "interpolate"


class CurveConnected(CurveBase):
    """A trained curve between two minima, and the straight line between them."""

    MUST_HOLD = (0, 1)
    connection: Name
    """Directions of kind `connection`, which hold the curve from their `center` (t = 0) to their `to` (t = 1). It is
    drawn beside the straight line."""
    range: Interval = Field([0, 1])
    batchnorm: Statistics = "recompute"

    @model_validator(mode="after")
    def _check_batchnorm(self) -> "CurveConnected":
        _refuse_interpolation(self.batchnorm)
        return self


def _course(curve: Any) -> str | None:
    kinds = {"x": "along", "to": "between", "connection": "connected"}
    given = [kind for key, kind in kinds.items() if (key in curve if isinstance(curve, dict) else hasattr(curve, key))]
    if isinstance(curve, dict) and len(given) != 1:
        return None
    return given[0] if given else "along"


Curve = Annotated[
    Annotated[CurveAlong, Tag("along")]
    | Annotated[CurveBetween, Tag("between")]
    | Annotated[CurveConnected, Tag("connected")],
    Discriminator(
        _course,
        custom_error_type="either",
        custom_error_message="give one of 'x' (along directions), 'to' (between two checkpoints) and 'connection' "
        "(on a trained curve)",
        custom_error_context={"keys": [*CurveBase.CHOSEN_BY]},
    ),
]


class Overlap(Model):
    """Cosines between directions."""

    x: AxisOrSet | Annotated[list[AxisOrSet], Field(min_length=1)]
    """Directions: `<directions>/<number>`, `<directions>` for all of a set, or a list of these."""
    gaussians: Whole = Field(100, ge=0, le=100_000)
    """How many Gaussian vectors each direction is compared with; number k is that of `random` directions of the same
    seed (Li et al. 2024, Fig. 5)."""
    seed: Whole = Field(0, ge=0)
    """Seed of the Gaussian vectors."""


class Perturbation(Products):
    """How the loss changes under Gaussian perturbations."""

    center: Iteration = "last"
    """The checkpoint theta_c that is perturbed."""
    at: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1), AfterValidator(ascending)] = Field(
        [0.001, 0.01]
    )
    """Factors λ: the loss changes from theta_c to theta_c + λ ε, entries of ε independent of variance sigma²."""
    sigma: Number = Field(1, gt=0)
    """Standard deviation σ of the entries of ε, as they are drawn: nothing is normalised."""
    draws: Whole = Field(100, ge=2, le=1_000_000)
    """How many ε are drawn; number k is σ times that of `random` directions of the same seed."""
    seed: Whole = Field(0, ge=0)
    """Seed of the ε, and of the probes."""
    probes: Whole = Field(10, ge=1, le=10_000)
    """Gaussian probes of stochastic Lanczos quadrature, from which tr H and tr H² are estimated for the prediction:
    mean 1/2 λ² σ² tr H, variance λ² σ² ||g||² + 1/2 λ⁴ σ⁴ tr H²."""
    steps: Whole = Field(40, ge=1, le=10_000)
    """Lanczos steps per probe."""


class Probes(Matrix):
    """Stochastic Lanczos quadrature."""

    probes: Whole = Field(4, ge=1, le=10_000)
    """Random probe vectors, common to all sites of all spectra (GradVis's k)."""
    steps: Whole = Field(40, ge=1, le=10_000)
    """Lanczos steps per probe (GradVis's m)."""
    tolerance: Annotated[Number, Field(gt=0)] | None = None
    """Adaptive spectra: Wasserstein-1 error of the density, relative to the largest |eigenvalue|, up to which probes
    and steps are added; `probes` and `steps` are then the most that may be used."""
    distribution: Literal["gaussian", "rademacher"] = "gaussian"
    """Distribution of the probes' entries before they are scaled to unit length."""
    seed: Whole = Field(0, ge=0)
    """Seed of the probes."""


class Variant(Model):
    """A further spectrum of the same iterations, probes and steps."""

    operator: Operator | None = left_out()
    """Another one than that of the spectrum itself."""
    parameters: Patterns | None = left_out()
    """Likewise."""


class Spectra(Probes):
    """Hessian spectra along training."""

    stride: Whole = Field(1, ge=1)
    """Every n-th recorded iteration, and the last."""
    variants: Named[Variant] = Field(default_factory=dict)
    """Further spectra by name, into `spectra/<name>.zarr`: the same iterations, probes and steps with another
    `operator` or `parameters`."""


class SpectraBetween(Probes):
    """Hessian spectra on a line between two checkpoints."""

    from_: Iteration = "last"
    """The recorded iteration of this run at position 0, a number, `first` or `last`."""
    to: Checkpoint
    """The checkpoint at position 1, of this run or of another one with the same network."""
    points: Whole = Field(20, ge=2, le=10_000)
    """Equally spaced points on the line, its ends included (GradVis takes 20)."""
    extend: Number = Field(0, ge=0, le=1000)
    """How far the line goes beyond both ends, as a share of their distance."""
    buffers: Literal["interpolate", "frozen"] = "interpolate"
    """BatchNorm's running statistics: moved along with the parameters (variances below zero are set to zero and
    counted), or those of `from` everywhere."""


class Tracking(Search, Matrix):
    """Hessian eigenvectors followed along training."""

    largest: Whole = Field(3, ge=0, le=1000)
    """How many of the largest eigenvalues' eigenvectors; they span the top subspace."""
    smallest: Whole = Field(0, ge=0, le=1000)
    """How many of the smallest (most negative) ones; without `largest` they span the subspace that gradient and step
    are compared with."""
    stride: Whole = Field(1, ge=1)
    """Every n-th recorded iteration, and the last."""
    per_unit: Whole = Field(8, ge=1, le=10_000)
    """Consecutive tracked iterations that one rank does in a row, each search starting from the eigenvectors before.
    The first of a row costs one search more."""


class Video(Model):
    """The videos."""

    fps: Whole = Field(15, ge=1, le=240)
    """Frames per second when playing."""
    hold_seconds: Number = Field(1.5, ge=0, le=3600)
    """How long the last frame stays."""
    frames: bool = False
    """Also write every frame as PNG into `video/<plane>_frames/`."""


class Figures(Model):
    """Choices of drawing."""

    kernel_width: Number | None = left_out(gt=0)
    """Standard deviation of the Gaussian kernel of densities; left out it is 1 % of the span of all eigenvalues of the
    run."""
    epsilon: Number | None = left_out(gt=0)
    """Eigenvalues beyond ± this are counted along training; left out it is a thousandth of the largest magnitude of an
    eigenvalue of the run."""
    scale: Scale = "auto"
    """Scale of the loss; `auto` is logarithmic when the surface spans more than a factor of 30."""
    maximum: Number | None = left_out(gt=0)
    """The surface is drawn clipped at this loss; left out it is drawn whole."""
    levels: Whole = Field(20, ge=2, le=1000)
    """Number of contour levels."""
    elevation: Number = 35
    """Elevation of the camera in degrees."""
    azimuth: Number = -60
    """Azimuth of the camera in degrees."""


class Run(Model):
    """One run of the atlas."""

    seed: Whole = Field(0, ge=0)
    """Seed of the initial weights, the order of the batches and dropout."""
    backend: Backend = "torch"
    """Deep-learning framework of the run: PyTorch, or TensorFlow with Keras 3 (`pip install
    'lossatlas[tensorflow]'`)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one. MPI ranks take GPUs by local rank."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of training and of every evaluation."""
    model: Network
    """The network, built in (`name`) or your own (`import`)."""
    data: Data = Field(default_factory=Data)
    """The dataset, built in (`name`) or your own (`import`). Without either it is `fashion-mnist-mini`."""
    loss: Loss = Field(default_factory=Loss)
    """The loss, built in (`name`) or your own (`import`). Without either it is `cross-entropy`."""
    metrics: dict[str, ImportPath] = Field(default_factory=dict)
    """Your own metrics by name (lower case), evaluated on planes and curves beside loss and accuracy, in the same pass:
    each a `module:function` as that of `loss.import`, which returns one value per sample or their mean. `top5:
    my_code:top5` becomes the array `top5` of the stores and a panel of the figures."""
    train: Train | None = left_out()
    """How the run is trained. Give either `train` or `checkpoints`; without both the defaults below hold."""
    checkpoints: Checkpoints | None = left_out()
    """Existing checkpoints that become the trajectory, instead of `train`."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """The samples on which surfaces are evaluated; stratified by class, fixed by seed, the same for every point."""
    directions: Named[Directions] = Field({"pca": {"kind": "pca"}, "random": {"kind": "random"}}, validate_default=True)
    """Sets of directions by name."""
    planes: Named[Plane] = Field(
        {"pca": {"x": "pca/1", "y": "pca/2"}, "random": {"x": "random/1", "y": "random/2"}}, validate_default=True
    )
    """Planes of the surface by name."""
    curves: Named[Curve] = Field(default_factory=dict)
    """The loss on lines by name, into `curves/<name>.zarr`: through one checkpoint along directions (`x`), between two
    checkpoints and beyond (`to`), or on a trained curve between two minima (`connection`)."""
    overlaps: Named[Overlap] = Field(default_factory=dict)
    """Cosines of directions with each other and with Gaussian vectors by name, into `overlaps/<name>.zarr`; no loss is
    evaluated."""
    perturbations: Named[Perturbation] = Field(default_factory=dict)
    """How the loss changes under Gaussian perturbations of a checkpoint, sampled and predicted from the Hessian's
    moments (Li et al. 2024, Fig. 13 and Eq. 4), by name, into `perturbations/<name>.zarr`; on the training samples of
    the evaluation subset."""
    spectra: Spectra | None = left_out()
    """Hessian spectra along training by stochastic Lanczos quadrature, on the training samples of the evaluation
    subset; left out there are none."""
    spectra_between: Named[SpectraBetween] = Field(default_factory=dict)
    """Hessian spectra, loss and gradient norm at points of the straight line between two checkpoints, by name, into
    `spectra_between/<name>.zarr`; on the training samples of the evaluation subset."""
    tracking: Tracking | None = left_out()
    """Hessian eigenvectors followed along training, on the training samples of the evaluation subset; left out there is
    none."""
    video: Video = Field(default_factory=Video)
    """The video of each plane, one frame per recorded iteration, 1280 x 720."""
    figures: Figures = Field(default_factory=Figures)
    """Choices of drawing; none of them is in a store."""

    @model_validator(mode="after")
    def _check_run(self) -> "Run":
        if self.checkpoints is None:
            self.train = self.train or Train()
        elif self.train is not None:
            raise Conflict("give either 'train' or 'checkpoints', not both")
        elif self.model.pretrained is not None:
            raise Conflict("'checkpoints' hold all weights; leave it out", "model.pretrained")
        return self


def _flag(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class Config(Model):
    """The whole config."""

    results: str = "results"
    """Folder that receives `<run>/...`, relative to the working directory."""
    data_root: str = "data"
    """Folder of downloaded datasets (not used by the embedded one)."""
    python_path: list[str] = Field(["."])
    """Folders in which the modules of `import` keys are looked for, before the installed packages."""
    fresh: Annotated[bool, BeforeValidator(_flag)] = False  # `--config fresh=true` arrives as text
    """Recompute every store from scratch; the former ones are set aside, not deleted."""
    mpi: MPI = Field(default_factory=MPI)
    """How MPI rules run. Results do not depend on `ranks`, `data_ranks` and `queue`."""
    defaults: dict[str, Any] = Field(default_factory=dict, exclude=True)
    """Keys of a run that hold for all runs unless the run itself sets them (merged key by key)."""
    runs: Named[Run] = Field(min_length=1)
    """The runs of the atlas by name. A name becomes a folder, so it consists of letters, digits, `_` and `-`."""
