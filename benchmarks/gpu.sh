#!/bin/bash
# Measure everything on one GPU in under 8 minutes: benchmarks/results/speed_cuda.json.
#     bash benchmarks/gpu.sh            # on a machine with a card
#     bash benchmarks/gpu.sh --quick    # the same commands on a CPU, with tiny sizes, into a temporary folder
# Every part is a process with a time limit of its own and writes what it has after each case, so that a part that hangs
# or breaks loses nothing of the others. At the end the parts become one file. What matters most comes first: the last
# parts get the time that is left. `packing` decides how the classes of a text pass are kept apart; benchmarks/packing.py
# says what goes when one of the three ways has won.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
parts=$(mktemp -d)
if [ "${1:-}" = "--quick" ]; then
    out=$parts/merged/speed_cuda.json && mkdir "$parts/merged"
    total=3600 slower=10
    device=(--device cpu --shape tiny --quick)
    feed=(--quick --methods splip --predecode)
else
    out=${OUT:-benchmarks/results}/speed_cuda.json
    total=460 slower=1
    device=(--device cuda)
    feed=(--batch 192 --steps 12 --files 3000 --workers -1 --methods splip --predecode)
fi
status=0

# part NAME SECONDS MODULE WORDS...
part() {
    local name=$1 most=$(($2 * slower)) left=$((total - SECONDS)) began=$SECONDS
    shift 2
    if ((left < 10)); then
        echo "gpu.sh: no time is left for $name" && status=124
        return
    fi
    timeout --kill-after=5 "$((most < left ? most : left))" "$python" -m "$@" --output "$parts/$name.json" >"$parts/$name.log" 2>&1
    local code=$?
    echo "gpu.sh: $name took $((SECONDS - began)) s, exit $code"
    if ((code)); then
        tail -n 5 "$parts/$name.log" && status=$code # 124 is its time limit
    fi
}

speed=(benchmarks.speed "${device[@]}")
part ceiling 60 "${speed[@]}" --parts ceiling metrics
part encoding 60 "${speed[@]}" --parts encoding
part steps 60 "${speed[@]}" --parts training_steps
part feeding 110 benchmarks.train_speed "${feed[@]}"
part compiled_16 90 "${speed[@]}" --parts compiled_steps --cases "image, 16, CUDA graphs"
part packing 70 "${speed[@]}" --parts packing
part indexing 45 "${speed[@]}" --parts indexing
if [ "${1:-}" != "--quick" ]; then # which compiles nothing; one such command above is enough to try
    part compiled_192 100 "${speed[@]}" --parts compiled_steps --cases "image, 192, compiled"
    part compiled 90 "${speed[@]}" --parts compiled_encoding
    part exactness 60 "${speed[@]}" --parts exactness
fi
"$python" -m benchmarks.speed "${device[@]}" --merge "$parts" --output "$out" || status=$?
echo "gpu.sh: $SECONDS s, written to $out, the parts and their logs lie in $parts (exit $status)"
exit $status
