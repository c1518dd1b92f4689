#!/usr/bin/env bash
# Check and measure a GPU in under ten minutes: correctness first, then speed. No checkpoint is needed, and of packages
# only torch and triton. Run it in the root of the repository:
#
#   bash tests/gpu_run.sh
#
# Each step is a process with its own time limit. A step that fails is a line of the table, and the next one begins.
# The table, of at most 11 kB, is printed at the end. $OUT/log.txt has everything that was printed, and
# $OUT/results.jsonl every line of the table.
#
#   OUT=DIR        folder of the results (default: gpu_run in the temporary folder)
#   BUDGET=560     seconds for all steps together
#   STEPS="env checks"   only these steps
#   REHEARSE=1     small shapes in Triton's interpreter, without a GPU
#   PYTHON=python3
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-560}
export OUT=${OUT:-${TMPDIR:-/tmp}/gpu_run} REHEARSE=${REHEARSE:-0} PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} GPTOSS_HOME=$OUT/home
if [[ $REHEARSE == 1 ]]; then
    export TRITON_INTERPRET=1
fi
mkdir -p "$OUT"
: > "$OUT/log.txt"
: > "$OUT/results.jsonl"

note() { # a line of the table about the step $1
    echo "$2" >> "$OUT/log.txt"
    printf '{"step": "%s", "text": "%s", "failed": true}\n' "$1" "$2" >> "$OUT/results.jsonl"
}

step() { # limit in seconds, step, arguments ...
    local limit=$1 left=$((BUDGET - SECONDS)) name=$2 status
    shift
    if [[ -n ${STEPS:-} && " $STEPS " != *" $name "* ]]; then
        return
    fi
    if [[ $REHEARSE == 1 ]]; then
        limit=$((limit * 10)) # the interpreter takes as long as the machine is busy
    fi
    if ((left < 10)); then
        note "$name" "$* was left out: the time is used up"
        return
    fi
    echo "== $* at $SECONDS s" | tee -a "$OUT/log.txt"
    timeout -k 5 "$((limit < left ? limit : left))" "$PYTHON" -m tests.gpu_run "$@" >> "$OUT/log.txt" 2>&1
    status=$?
    if ((status == 124 || status == 137)); then
        note "$name" "$* was ended after its time limit"
    elif ((status != 0)); then
        note "$name" "$* ended with status $status"
    fi
}

step 30 env
step 110 checks
step 50 memory
step 70 speed 20b 128 8192 65536
step 40 kernels 20b 8192
step 50 prefill 20b 128 2048 16384
step 60 tunings 20b
step 60 offload 20b 8
step 70 speed 120b 128 8192 65536
step 40 prefill 120b 128 2048 16384
step 80 offload 120b 24
step 90 tests

"$PYTHON" -m tests.gpu_run table
echo "== done at $SECONDS s; everything that was printed is in $OUT"
