"""What a training run consists of; `train` is the loop over it.

- `arguments`: recipe and flags, checked; `recipes/` holds the packaged recipes
- `methods`: the methods that can be trained, a row each
- `setup`: builds everything that a run consists of
- `plan`: measures what a training will take
- `sampling`: the items and batches of an epoch
- `pixels`: images as bytes, on the disk and on their way to the device, and their normalisation there
- `augmentation`: random changes of training images
- `losses`: the losses, pure functions of embeddings
- `jigsaw`: permuted tiles, and the solver of SpLIP's jigsaw
- `objective`: the base of the objectives
- `objective_splip`, `objective_clip_at`, `objective_cross_align`: each method's losses over a batch
- `guards`: refuses launchers, layouts and numbers that cannot train
- `state`: checkpoints, resuming, and the saved model
- `tracking`: the progress bar and the tracker
"""

from ..common.lazy import lazy_names

_PLACES = {
    "METHODS": "methods",
    "TrainingArguments": "arguments",
    "build_training": "setup",
    "parse_arguments": "arguments",
    "plan_training": "plan",
}
__all__ = list(_PLACES)
__getattr__, __dir__ = lazy_names(__name__, _PLACES)
