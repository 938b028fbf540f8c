#!/bin/sh
# Prints the adapter matrix: the GPU tests on every software adapter that is here, as Markdown, with
# driver version and date. An adapter that is absent shows as skipped, with the command that gets
# it.
#
#     scripts/adapter-matrix.sh [FILTER...]      # tests of tests/gpu whose names contain a FILTER; else all
#
#   ADAPTERS   a subset of: system lavapipe22 lavapipe26 lavapipe26-f16 lavapipe26-f16x3 swiftshader
#              llvmpipe-gl; the two are attention on matrix units, with f16 products and with three
#              of them for one
#   LIMIT      seconds for each (3600); an adapter that takes longer is reported as unfinished
#   GPU_TESTS  a test binary that is built already
set -eu
cd "$(dirname "$0")/.."
tools=${PORTABILITY_TOOLS:-$HOME/.cache/phasor-tools}
lab=${GPU_LAB_ROOT:-$HOME/.cache/gpu-lab}
limit=${LIMIT:-3600}
chosen=${ADAPTERS:-system lavapipe22 lavapipe26 lavapipe26-f16 lavapipe26-f16x3 swiftshader llvmpipe-gl}
logs=target/adapters
mkdir -p "$logs"

binary=${GPU_TESTS:-$(cargo test --locked --test gpu --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/gpu-[^"]*\)".*/\1/p')}
failed=0

# row NAME SETUP FILE PROGRAM...: runs PROGRAM, which ends in the test binary; FILE has to be there.
row() {
    name=$1 setup=$2 needed=$3
    shift 3
    case " $chosen " in *" $name "*) ;; *) return 0 ;; esac
    if ! [ -e "$needed" ]; then
        echo "| $name | skipped: tool missing; get it with \`$setup\` | | | |"
        return 0
    fi
    log=$logs/$name.log start=$(date +%s)
    if timeout "$limit" "$@" >"$log" 2>&1; then status=0; else status=$?; fi
    seconds=$(($(date +%s) - start))
    # The harness prints the adapter of every device that it makes.
    adapter=$(sed -n 's/^.*\(\(llvmpipe\|SwiftShader\|NVIDIA\|AMD\|Intel\|Apple\)[^|]* (\(Vulkan\|Gl\), .*)\)$/\1/p' "$log" | head -n 1)
    result=$(sed -n 's/^test result: \([^;]*; [0-9]* failed; [0-9]* ignored\).*/\1/p' "$log")
    [ $status -eq 0 ] || failed=$((failed + 1))
    [ $status -ne 124 ] || result="unfinished after $limit s: $(grep -c '\.\.\. ok$' "$log") passed, $(grep -c '\.\.\. FAILED$' "$log") failed"
    echo "| $name | ${adapter:-no adapter line} | ${result:-ended with status $status, see $log} | $seconds s | $(date -u +%Y-%m-%d) |"
}

for loader in "$lab"/usr/lib64 "$lab"/lib64 "$lab"/usr/lib/x86_64-linux-gnu; do
    [ -x "$loader/ld-linux-x86-64.so.2" ] && break
done
libraries=$lab/usr/lib/x86_64-linux-gnu
manifest() { for file in "$@"; do if [ -e "$file" ]; then echo "$file" && return; fi; done; }

echo "tests: ${*:-all of tests/gpu}"
echo '| adapter | driver | result | time | date |'
echo '|---|---|---|---|---|'
row system scripts/with-adapter.sh "$binary" scripts/with-adapter.sh "$binary" --nocapture "$@"
old=$(manifest "$tools"/lavapipe22/usr/share/vulkan/icd.d/lvp*.json)
row lavapipe22 'scripts/portability-tools.sh lavapipe22' "${old:-/nowhere}" \
    env VK_DRIVER_FILES="$old" WGPU_BACKEND=vulkan "$binary" --nocapture "$@"
row lavapipe26 tools/gpu-lab/setup.sh "$libraries/libvulkan_lvp.so" \
    env VK_DRIVER_FILES="$(manifest "$lab"/usr/share/vulkan/icd.d/lvp*.json)" WGPU_BACKEND=vulkan \
    "$loader/ld-linux-x86-64.so.2" --library-path "$libraries:$lab/lib/x86_64-linux-gnu" "$binary" --nocapture "$@"
# Not on matrix units, and refused by name: heads wider than 256, a tile of the plain kernel. The
# mean of equal scores is held to a bound of f32, which values in f16 do not keep.
f16='matrix:: attention::sizes attention::variants attention::sequences attention::heads
    attention::features attention::parts::every attention::parts::calls attention::storage
    attention::rotary attention::dims::head_dims attention::dims::planned attention::caches
    edges::attention invariants::bitwise invariants::places::attention invariants::rotation::scores
    invariants::rotation::imaginary invariants::softmax::values invariants::softmax::full
    invariants::softmax::the_log random::attention::attention_sample'
# Hundreds of shaders that run for a moment each, as in scripts/with-adapter.sh.
nopt=${GALLIVM_PERF-nopt}
for tier in f16 f16x3; do
    # shellcheck disable=SC2086 # a list of filters
    row lavapipe26-$tier tools/gpu-lab/setup.sh "$libraries/libvulkan_lvp.so" \
        env PRECISION=$tier GALLIVM_PERF="$nopt" WGPU_BACKEND=vulkan \
        VK_DRIVER_FILES="$(manifest "$lab"/usr/share/vulkan/icd.d/lvp*.json)" \
        "$loader/ld-linux-x86-64.so.2" --library-path "$libraries:$lab/lib/x86_64-linux-gnu" "$binary" --nocapture \
        --include-ignored --skip backward:: --skip values_within_keys --skip caches::tiles --skip equal_scores_give \
        ${*:-$f16}
done
swiftshader=$(manifest "$tools"/swiftshader/usr/lib/chromium/vk_swiftshader_icd.json /usr/lib/chromium/vk_swiftshader_icd.json)
row swiftshader 'scripts/portability-tools.sh swiftshader' "${swiftshader:-/nowhere}" \
    env VK_DRIVER_FILES="$swiftshader" WGPU_BACKEND=vulkan "$binary" --nocapture "$@"
row llvmpipe-gl 'apt-get install libegl1 libgl1-mesa-dri' "$(manifest /usr/lib/*/libEGL.so.1 /usr/lib*/libEGL.so.1)" \
    env WGPU_BACKEND=gl LIBGL_ALWAYS_SOFTWARE=1 "$binary" --nocapture "$@"
[ $failed -eq 0 ]
