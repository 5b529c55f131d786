#!/usr/bin/env bash
# Runs a command with a Rust toolchain that compiles for all architectures of a release:
#
#   release/toolchain.sh COMMAND [ARGUMENT]...
#
# This is the installed one if it has the targets and GCC's cross compilers. Otherwise it is Debian's, in a folder in the
# cache that is created once. RELEASE_TOOLCHAIN=installed or debian chooses.
source "$(dirname "$0")/common.sh"
source controlplane/cache.sh

suite=${DEBIAN_SUITE:-sid}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# Options of apt. A mirror that does not change any more needs `Acquire::Check-Valid-Until "false"`.
apt_option=${DEBIAN_APT_OPTION:-}

is_installed() {
    local arch
    for arch in "${architectures[@]}"; do
        [ -d "$(rustc --print target-libdir --target "${rust_target[$arch]}")" ] || return 1
        command -v "${gnu_prefix[$arch]}-gcc" >/dev/null || return 1
    done
}

# Called by build_once.
build() { # FOLDER
    require mmdebstrap
    local packages=rustc,cargo,gcc,libc6-dev,make,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross
    echo "Installing Debian's Rust toolchain for amd64 and arm64, once; it takes 2 to 5 minutes." >&2
    mmdebstrap --quiet --variant=minbase --architectures=amd64,arm64 ${apt_option:+--aptopt="$apt_option"} \
        --include="$packages,libstd-rust-dev:amd64,libstd-rust-dev:arm64" "$suite" "$1" "$mirror"
}

# Runs a command in the root file system, as the same user and with the same paths. Mounts end with the command.
enter() { # ROOT COMMAND...
    local ids=()
    [ "$(id -u)" = 0 ] || ids=(--map-root-user --map-auto)
    unshare "${ids[@]}" --mount bash -euc '
        root=$1 folder=$2 cargo_home=$3 target=$4; shift 4
        for path in /dev /proc "$folder" "$cargo_home" "$target"; do
            mkdir -p "$root$path"
            mount --rbind "$path" "$root$path"
        done
        # The PATH of the host names programs that are not in the root file system.
        exec env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$(PATH=$PATH:/usr/sbin command -v chroot)" "$root" \
            env --chdir="$folder" "$@"
    ' enter "$1" "$PWD" "${CARGO_HOME:-$HOME/.cargo}" "$target" "${@:2}"
}

choice=${RELEASE_TOOLCHAIN:-$(is_installed && echo installed || echo debian)}
case $choice in
    installed) exec "$@" ;;
    debian)
        root=$(build_once "$(cache_folder "debian-rust-$suite" release/toolchain.sh <(echo "$mirror"))")
        mkdir -p "$target"
        enter "$root" "$@"
        ;;
    *) echo "RELEASE_TOOLCHAIN is $choice, but must be installed or debian" >&2; exit 1 ;;
esac
