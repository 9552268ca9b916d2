# What rules declare for a storage plugin (snakemake --default-storage-provider), which moves nothing else.
#
# On a file system they declare less: Snakemake removes what is declared before a job and after one that failed, and
# with it what the next try goes on from.

STORED = workflow.storage_settings.default_storage_provider is not None

if workflow.storage_settings.default_storage_provider == "s3":
    # snakemake-storage-plugin-s3 0.3.6 asks once whether a path is a folder, and misses the one that a job makes later.
    kept = workflow.storage_registry.default_storage_provider.get_storage_object_cls()
    kept.is_dir = lambda self: any(self.get_subkeys())


def stored(*paths):
    """What lies beside a declared file and is read with it: declared only where results are stored."""
    return list(paths) if STORED else []


def whole(index):
    """A file that stands for its folder, whose other files only its job knows: where results are stored, the folder."""
    return str(Path(index).parent) if STORED else index


def made(paths):
    """The same paths as outputs; those without a suffix are folders."""
    return [path if Path(path).suffix else directory(path) for path in paths]


# The plan that the index goes on from: Snakemake fetches inputs, and no output that is to be updated.
INDEXED = stored("results/clips/manifest.parquet", "results/clips/shards.json")
EARLIER = [before_update(path) for path in INDEXED if exists(path)]

# The videos beside it are known by it, as downloads are by their addresses.
DRAWN = whole("results/clips/digits/digits.csv")

DECODER = ["results/decoder/decoder.json"]
if CONFIG.decoder.name == "embedded":
    DECODER += stored("results/decoder/autoencoder", "results/decoder/scheduler")
    DECODER += stored("results/decoder/unet") if CONFIG.predictor_steps else []

# The empty caption that training drops captions for.
EMPTY = ["results/captions/empty.safetensors"] if CONFIG.training.caption_dropout else []

MODEL = ["results/model/training.json"]
MODEL += stored(
    "results/model/transformer",
    "results/model/decoder",
    "results/model/flow.json",
    "results/model/pipeline.json",
    "results/model/training_captions.safetensors",
    "results/model/metrics.csv",
)
MODEL += stored("results/model/empty_caption.safetensors") if EMPTY else []
# Written while it trains, and gone on with: not where an output is removed. `vlfm train` copies it to the model.
METRICS = "checkpoints/metrics.csv" if STORED else "model/metrics.csv"

JUDGES = [whole("results/judges/judges.json")]
VIDEOS = whole("results/eval/videos/index.json")
GENERATED = whole("results/eval/generation/index.json")
