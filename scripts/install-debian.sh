#!/usr/bin/env bash
# Installs what the demo and the tests need on Debian 12, and nothing twice.
#
#   scripts/install-debian.sh            everything the demo needs: packages, wireguard-go, .venv
#   scripts/install-debian.sh tests      the same, and what only tests and benchmarks need (Chromium, QEMU, nginx, a Debian kernel …)
#   scripts/install-debian.sh python     .venv only; needs no root
#
# Each part has a stamp under .local/stamps that holds a hash of its inputs, so that a second run takes a moment.
# The system's package sources are not touched: what is not in Debian 12 itself comes through an apt configuration of
# our own under .local/apt and is unpacked, not installed.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
local_dir=$project/.local
stamps=$local_dir/stamps
export HOME=${HOME:-/root} DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

demo_packages=(ca-certificates conntrack curl git haproxy iproute2 iputils-ping make nftables openssl procps python3-venv
  xz-utils)
test_packages=(busybox-static chromium iperf3 kmod knot knot-dnsutils nghttp2-client nginx openssh-client
  openssh-server qemu-system-x86 rsync tcpdump wrk)

# shellcheck source=scripts/debian.sh
source "$project/scripts/debian.sh"

say() { printf '%s\n' "kakuremichi: $*" >&2; }
fail() { say "$*"; exit 1; }

# stamped NAME INPUTS: whether the part NAME was done with exactly these inputs.
stamped() { [[ -f $stamps/$1 && $(<"$stamps/$1") == "$2" ]]; }
stamp() { mkdir -p "$stamps" && printf '%s\n' "$2" >"$stamps/$1"; }
hash_of() { sha256sum "$@" | sha256sum | cut -d' ' -f1; }

need_root() {
  ((EUID == 0)) && return
  fail "$1 needs root, and this is user $(id -un). Go on with 'sudo make ${MAKECMDGOALS:-test}', or as root in a" \
    "container started with --privileged. 'make check' needs no root."
}

ensure_packages() {
  local names missing
  names=$(missing_packages "$@")
  [[ -z $names ]] && return
  mapfile -t missing <<<"$names"
  need_root "installing ${missing[*]}"
  need_bookworm
  say "installing ${missing[*]}"
  install_packages "${missing[@]}"
}

ensure_wireguard_go() {
  local inputs=0.0.20231211
  stamped wireguard-go $inputs && [[ -x $local_dir/wireguard-go/usr/bin/wireguard-go ]] && return
  need_bookworm
  say "unpacking wireguard-go of bookworm-backports"
  unpack wireguard-go/bookworm-backports "$local_dir/wireguard-go"
  stamp wireguard-go $inputs
}

# The cloud kernel would be smaller, but has no 9p, which is how the test shares the file system with it.
ensure_kernel() {
  local image
  stamped kernel amd64 && compgen -G "$local_dir/kernel/boot/vmlinuz-*" >/dev/null && return
  need_bookworm
  refresh_private_apt
  image=$(private_apt_cache depends linux-image-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ {print $2; exit}')
  [[ -n $image ]] || fail "linux-image-amd64 names no kernel package: is this an amd64 machine?"
  say "unpacking $image for the kernel test"
  unpack "$image" "$local_dir/kernel"
  depmod -b "$local_dir/kernel" "$(basename "$local_dir"/kernel/lib/modules/*)"
  stamp kernel amd64
}

# is_python INTERPRETER MODULE: whether it is new enough and has the module.
is_python() {
  "$1" -c "import sys, $2; sys.exit(sys.version_info < (3, 11))" 2>/dev/null
}

# The first interpreter that is new enough; Debian's own comes first because its venv survives a new shell.
find_python() {
  local python
  for python in /usr/bin/python3 python3.11 python3.12 python3.13 python3; do
    if is_python "$python" ensurepip; then
      command -v "$python"
      return
    fi
  done
  fail "no Python 3.11 or newer with the venv module found: apt-get install python3-venv"
}

ensure_python() {
  local inputs python=$project/.venv/bin/python
  inputs="$project $(hash_of "$project/requirements/dev.txt" "$project/pyproject.toml")"
  stamped python "$inputs" && "$python" -c 'import kakuremichi' 2>/dev/null && return
  is_python "$python" pip || "$(find_python)" -m venv --clear "$project/.venv"
  say "installing the Python packages into .venv"
  "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$project/requirements/dev.txt"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$project"
  stamp python "$inputs"
}

main() {
  mkdir -p "$local_dir"
  # Two runs at once (a demo beside the tests) would unpack into the same folders.
  exec 9<"$local_dir"
  flock 9
  case ${1:-demo} in
    python) ensure_python ;;
    demo)
      ensure_packages "${demo_packages[@]}"
      ensure_wireguard_go
      ensure_python
      ;;
    tests)
      ensure_packages "${demo_packages[@]}" "${test_packages[@]}"
      ensure_wireguard_go
      ensure_kernel
      ensure_python
      ;;
    *) fail "unknown part '$1': one of demo, tests, python" ;;
  esac
}

main "$@"
