__version__ = "0.1.0"
cuda: str | None = None  # built against no CUDA: drivers are found at run time
hip: str | None = None
git_version: str | None = None
debug = False
