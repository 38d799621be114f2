"""Train a model on a prepared dataset; `accelerate launch -m modeling_splip train` uses several GPUs."""


def run_words(argv: list[str]) -> int:
    """Train and return the exit status; the words are read here, since the names of options depend on the method."""
    from ..training.train import run_to_the_end

    return run_to_the_end("splip train", argv)
