#!/usr/bin/env bash
# Builds the two libraries that distributions do not ship in a form we can put inside a shared
# library (static, position independent, hidden symbols): Abseil and oneDNN. Each is built once
# per version, flags and compiler into a per-user cache and found there by CMake.
#
#   scripts/deps.sh build [abseil] [onednn] [--variant plain|address|thread]   default: both, plain
#   scripts/deps.sh root abseil|onednn [--variant V]   prints the folder CMake should use
#
# Settings, all optional: CC, CXX; PONDER_CACHE (default ~/.cache/ponder); PONDER_JOBS (default: all
# cores); PONDER_DISTFILES (a folder that already holds the source archives, for offline machines).
# docs/decisions/0001-dependencies.md says why it is done this way.

set -euo pipefail

cache=${PONDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ponder}
jobs=${PONDER_JOBS:-$(nproc)}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${CC:=cc}" "${CXX:=c++}"

say() { printf '%s\n' "deps: $*" >&2; }
die() { say "$*"; exit 1; }

# ---- what is built: version, where from, checksum, flags ------------------------------------------

describe() { # name variant -> version, url, url_sha256, pool, pool_sha256, options, targets
  local common_flags="-g0 -ffunction-sections -fdata-sections"
  options=(
    -DCMAKE_BUILD_TYPE=Release
    "-DCMAKE_C_FLAGS_RELEASE=-O2 -DNDEBUG" "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG"
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON
    -DCMAKE_C_VISIBILITY_PRESET=hidden -DCMAKE_CXX_VISIBILITY_PRESET=hidden
    -DCMAKE_VISIBILITY_INLINES_HIDDEN=ON
    -DCMAKE_INSTALL_LIBDIR=lib)
  case $1:$2 in
    abseil:plain) ;;
    # Abseil's containers change their layout under a sanitizer, and TSan must see its mutex.
    abseil:address) common_flags+=" -fsanitize=address -fno-omit-frame-pointer" ;;
    abseil:thread) common_flags+=" -fsanitize=thread -fno-omit-frame-pointer" ;;
    # oneDNN is only ever called from one thread at a time per object: never instrumented.
    onednn:plain | onednn:address | onednn:thread) ;;
    *) die "unknown library or variant '$1' '$2': abseil or onednn; plain, address or thread" ;;
  esac
  options+=("-DCMAKE_C_FLAGS=$common_flags" "-DCMAKE_CXX_FLAGS=$common_flags")
  case $1 in
    abseil)
      version=20240722.0
      url=https://github.com/abseil/abseil-cpp/archive/refs/tags/20240722.0.tar.gz
      url_sha256=f50e5ac311a81382da7fa75b97310e4b9006474f9560ac46f54a9967f07d4ae3
      pool=pool/main/a/abseil/abseil_20240722.0.orig.tar.gz
      pool_sha256=df6d1f5ef540725f3851201176a60486aab332410788465c9877910bb471c34a
      options+=(-DCMAKE_CXX_STANDARD=20 -DABSL_PROPAGATE_CXX_STD=ON -DABSL_ENABLE_INSTALL=ON
        -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF -DABSL_BUILD_TESTING=OFF)
      patch_level=0
      ;;
    onednn)
      version=3.7.2
      url=https://github.com/uxlfoundation/oneDNN/archive/refs/tags/v3.7.2.tar.gz
      url_sha256=21068e8cd2bf4077916bf31452eab5ac9998e620e1b22630a88f79c334857a5c
      pool=pool/main/o/onednn/onednn_3.7.2+ds.orig.tar.xz
      pool_sha256=0cc51ca26c1af6a2bb1e71e378e7046f3ceb3e71791ee9d4e246d50f904a6ea6
      options+=(-DONEDNN_LIBRARY_TYPE=STATIC -DONEDNN_CPU_RUNTIME=THREADPOOL
        -DONEDNN_GPU_RUNTIME=NONE -DONEDNN_BUILD_GRAPH=OFF -DONEDNN_BUILD_TESTS=OFF
        -DONEDNN_BUILD_EXAMPLES=OFF -DONEDNN_BUILD_DOC=OFF
        # Only what backends/onednn calls: two primitives, forward only, and the brgemm ukernel.
        -DONEDNN_ENABLE_WORKLOAD=INFERENCE "-DONEDNN_ENABLE_PRIMITIVE=MATMUL;REORDER"
        -DONEDNN_EXPERIMENTAL_UKERNEL=ON
        # Without the old generated GEMM kernels (a third of the code): brgemm covers AVX2 and up.
        -DONEDNN_ENABLE_GEMM_KERNELS_ISA=NONE
        # Silent, and blind to the environment; the ISA limit stays for the tests.
        -DONEDNN_VERBOSE=OFF -DONEDNN_ENABLE_JIT_PROFILING=OFF -DONEDNN_ENABLE_ITT_TASKS=OFF
        -DONEDNN_ENABLE_CPU_ISA_HINTS=OFF -DONEDNN_ENABLE_MAX_CPU_ISA=ON)
      patch_level=1
      ;;
  esac
}

root_of() { # name variant
  describe "$1" "$2"
  local compiler key
  # Its version without its name: c++ and g++ are one compiler.
  compiler=$("$CXX" --version | sed -n '1s/^[^ ]* //p'; "$CXX" -dumpmachine)
  key=$({ printf '%s\n' "$compiler" "$patch_level" "${options[@]}"
          cat "$here/deps/$1"* 2>/dev/null || true; } | sha256sum | cut -c1-12)
  printf '%s\n' "$cache/deps/$1-$version-$key"
}

# ---- getting the source: cache, given folder, upstream, the machine's own package archive ----------

matches() { [ -f "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

# The archive this machine already installs from, as apt knows it; proxies and all.
archive_uris() {
  command -v apt-get >/dev/null || return 0
  apt-get indextargets --format '$(CREATED_BY) $(REPO_URI)' 2>/dev/null |
    awk '$1 == "Packages" && $2 ~ /\/debian\/$/ { print $2 }' | sort -u
}

fetch() { # name -> path of a verified archive on stdout
  mkdir -p "$cache/sources"
  local upstream="$cache/sources/$1-$version.tar.gz" distro="$cache/sources/${pool##*/}" file uri
  for file in "$upstream" "${PONDER_DISTFILES:-/nonexistent}/${upstream##*/}"; do
    if matches "$file" "$url_sha256"; then echo "$file"; return; fi
  done
  for file in "$distro" "${PONDER_DISTFILES:-/nonexistent}/${pool##*/}"; do
    if matches "$file" "$pool_sha256"; then echo "$file"; return; fi
  done

  say "$1 $version: fetching $url"
  cat >"$cache/sources/download.$$.cmake" <<CMAKE
file(DOWNLOAD "$url" "$upstream.part$$" STATUS status INACTIVITY_TIMEOUT 10 TLS_VERIFY ON)
CMAKE
  cmake -P "$cache/sources/download.$$.cmake" >&2 || true
  rm -f "$cache/sources/download.$$.cmake"
  if matches "$upstream.part$$" "$url_sha256"; then
    mv "$upstream.part$$" "$upstream"; echo "$upstream"; return
  fi
  rm -f "$upstream.part$$"

  for uri in $(archive_uris); do
    say "$1 $version: not reachable there; taking ${pool##*/} from this machine's package archive"
    # apt-helper refuses a file whose checksum differs.
    if (cd "$cache/sources" && /usr/lib/apt/apt-helper -o APT::Sandbox::User="$(id -un)" download-file \
          "$uri${pool//+/%2b}" "$distro.part$$" "SHA256:$pool_sha256") >&2 &&
       matches "$distro.part$$" "$pool_sha256"; then
      mv "$distro.part$$" "$distro"; echo "$distro"; return
    fi
    rm -f "$distro.part$$"
  done
  die "$1 $version: no source found. Put ${upstream##*/} (sha256 $url_sha256, from $url) into a" \
    "folder and name the folder in PONDER_DISTFILES"
}

# Ninja's output becomes a line per five per cent (or one rewritten line on a terminal).
progress() { # label
  local start=$SECONDS shown=-5 step=5 begin='' end=$'\n' line done all percent
  if [ -t 2 ]; then step=1 begin=$'\r' end=$'\e[K'; fi
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
    done=${BASH_REMATCH[1]} all=${BASH_REMATCH[2]} percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
    if ((percent >= shown + step)); then
      shown=$percent
      printf '%sdeps: %s: %3d%% (%d of %d files), %d:%02d elapsed%s' "$begin" "$1" "$percent" \
        "$done" "$all" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)) "$end" >&2
    fi
  done
  if [ -t 2 ]; then echo >&2; fi
}

patch_source() { # name folder
  case $1 in
    onednn)
      # The library reads no environment variables, so neither does what is inside it.
      sed -i 's/const char \*value = ::getenv(name);/const char *value = nullptr;/' \
        "$2/src/common/utils.cpp"
      grep -q 'value = nullptr;' "$2/src/common/utils.cpp" || die "onednn: the getenv patch failed"
      # Without those kernels the gemm-based matmuls would be reference loops under another name,
      # and on AVX2 they stand before brgemm in the list.
      sed -i '/CPU_INSTANCE(gemm_.*matmul_t/d' "$2/src/cpu/matmul/cpu_matmul_list.cpp"
      ! grep -q 'gemm_.*32.*_matmul_t' "$2/src/cpu/matmul/cpu_matmul_list.cpp" ||
        die "onednn: the matmul list patch failed"
      local file
      while read -r file; do
        case $file in '#'* | '') continue ;; esac
        [ -f "$2/$file" ] || die "onednn: $file of scripts/deps/onednn-unused.txt does not exist"
        rm "$2/$file"
      done <"$here/deps/onednn-unused.txt"
      ;;
  esac
}

# ---- building -------------------------------------------------------------------------------------

build() ( # name variant
  root=$(root_of "$1" "$2")
  describe "$1" "$2"
  if [ -f "$root/.complete" ]; then say "$1 $version ($2): ready in $root"; exit 0; fi
  mkdir -p "$cache/deps"
  # Two set-up runs at once: the second waits and finds the work done.
  exec 9>"$root.lock"
  flock 9
  if [ -f "$root/.complete" ]; then say "$1 $version ($2): ready in $root"; exit 0; fi

  archive=$(fetch "$1")
  work=$(mktemp -d "$cache/deps/.build-$1-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/source" "$work/build"
  tar -xf "$archive" -C "$work/source" --strip-components=1
  patch_source "$1" "$work/source"

  log="$root.log"
  launcher=()
  if command -v ccache >/dev/null; then
    launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
    export CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1  # its name is new every time
  fi
  begin=$(date +%s)
  say "$1 $version ($2): building with $jobs jobs, log in $log"
  if ! { cmake -G Ninja -S "$work/source" -B "$work/build" -DCMAKE_C_COMPILER="$CC" \
           -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_INSTALL_PREFIX="$work/install" "${options[@]}" \
           "${launcher[@]}" >"$log" 2>&1 &&
         NINJA_STATUS='[%f/%t] ' ninja -C "$work/build" -j "$jobs" 2>&1 | tee -a "$log" | progress "$1" &&
         ninja -C "$work/build" install >>"$log" 2>&1; }; then
    tail -n 40 "$log" >&2
    die "$1 $version ($2): the build failed; the whole log is $log"
  fi
  size=$(du -sh "$work/install" | cut -f1)
  {
    echo "$1 $version, variant $2, $("$CXX" --version | head -n1)"
    printf '%s\n' "${options[@]}"
  } >"$work/install/.complete"
  # The rename makes it all or nothing: no half-built folder ever carries the final name.
  rm -rf "$root"
  mv "$work/install" "$root"
  end=$(date +%s)
  say "$1 $version ($2): done in $((end - begin)) s, $size, in $root"
)

command=${1:-}
[ $# -gt 0 ] && shift
names=() variant=plain
while [ $# -gt 0 ]; do
  case $1 in
    --variant) variant=${2:?--variant needs plain, address or thread}; shift ;;
    abseil | onednn) names+=("$1") ;;
    *) die "unknown argument '$1'" ;;
  esac
  shift
done
case $variant in plain | address | thread) ;; *) die "unknown variant '$variant'" ;; esac
case $command in
  build)
    [ ${#names[@]} -gt 0 ] || names=(abseil onednn)
    for name in "${names[@]}"; do
      if [ "$name" = onednn ]; then build onednn plain; else build "$name" "$variant"; fi
    done
    ;;
  root)
    [ ${#names[@]} -eq 1 ] || die "root needs one name: abseil or onednn"
    if [ "${names[0]}" = onednn ]; then variant=plain; fi
    root_of "${names[0]}" "$variant"
    ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
