#!/bin/bash
# Measure everything on one GPU in under 8 minutes: results/speed_cuda.json and results/train_speed_cuda.json.
#     bash benchmarks/gpu.sh            # on a machine with a card
#     bash benchmarks/gpu.sh --quick    # the same commands on a CPU, with tiny sizes, into a temporary folder
# A result is written after every part, so that what a time limit cuts off loses nothing that was measured before.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${OUT:-benchmarks/results}
if [ "${1:-}" = "--quick" ]; then
    out=$(mktemp -d)
    device=(--device cpu --shape tiny --quick --parts ceiling encoding metrics training_steps indexing exactness)
    feed=(--quick)
else
    device=(--device cuda)
    feed=(--batch 192 --steps 12 --files 3000 --workers -1 --methods splip --predecode)
fi
status=0
timeout 330 "$python" -m benchmarks.speed "${device[@]}" --output "$out/speed_cuda.json" || status=$?
timeout 140 "$python" -m benchmarks.train_speed "${feed[@]}" --output "$out/train_speed_cuda.json" || status=$?
echo "written to $out (exit $status; 124 is a time limit)"
exit $status
