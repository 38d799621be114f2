"""Every method on real pictures: 3 folds of Sketchy's 21 test classes, category and fine-grained level.

    for fold in 0 1 2; do splip prepare sketchy21-fold$fold --data-dir FOLDER --out data/sketchy21-fold$fold; done
    python -m benchmarks.compare_real --data data [--levels category fine_grained] [--seeds 0 1] [--jobs 2]

Every method has the same data, steps and batches, those of the recipes `*_sketchy21`. The folds cover all 21 classes,
so nothing is chosen on them: rates and lengths come from held-back classes of other data (`choose_real.py`). The report
is `benchmarks/results/compare_real.json`, with a plot in `docs/images`; the runs are those of `world_runs.py`, so that
an interrupted benchmark continues.
"""
