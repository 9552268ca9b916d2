"""Which experiments there are: the workflow, the command line, `vlfm status` and the report have them from here."""

EXPERIMENTS = ("ledger", "interpolation", "extrapolation", "order", "ablation", "speed")  # every run has them
ON_REQUEST = ("baselines", "depth")  # these take an hour, and are asked for by name
WITH_PARTS = ("ablation", "baselines", "depth")  # these train: a job for each network
HEADS = ("velocity", "direct", "coefficients")  # the networks of the ablation
