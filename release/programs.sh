#!/usr/bin/env bash
# Compiles roster for each architecture, statically linked and without debugging information, to
# target/release-build/<target>/release/roster.
source "$(dirname "$0")/common.sh"

cargo_home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$build"
# In the Debian toolchain there is no network.
"$cargo" fetch --locked

# The paths of this machine must not end up in the programs. The last prefix that matches counts.
flags=(-Ctarget-feature=+crt-static)
c_flags=()
for path in "$cargo_home=/cargo" "$PWD=/roster" "$build=/build"; do
    flags+=("--remap-path-prefix=$path")
    c_flags+=("-ffile-prefix-map=$path")
done
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
export CARGO_TARGET_DIR=$build CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
# Linux on arm64 uses pages of up to 64 KiB. jemalloc ends the program if pages are larger than it was compiled for.
export AARCH64_UNKNOWN_LINUX_GNU_JEMALLOC_SYS_WITH_LG_PAGE=16

for arch in "${architectures[@]}"; do
    name=${rust_target[$arch]//-/_}
    export "CC_$name=${gnu_prefix[$arch]}-gcc" "CFLAGS_$name=${c_flags[*]}"
    export "CARGO_TARGET_${name^^}_LINKER=${gnu_prefix[$arch]}-gcc"
    release/toolchain.sh cargo build --offline --locked --release --bin roster --target "${rust_target[$arch]}"
done
