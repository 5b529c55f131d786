# Sourced by the scripts in this folder. Sets the version, the time and the folders of a release, and goes to the project's
# folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The same sort order, messages and file modes on every machine.
export LC_ALL=C TZ=UTC
umask 022

cargo=${CARGO:-cargo}
# Of [workspace.package] in Cargo.toml, the only place where the version is set.
version=$("$cargo" pkgid --locked --package roster | sed 's/.*[#@]//')
# Of the commit, so that a later build of the same commit writes the same bytes.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

target=${CARGO_TARGET_DIR:-$PWD/target}
out=$target/release-artifacts
# Kept between builds: compiled dependencies. A folder of its own, because flags and compiler differ from `make build`.
build=$target/release-build

architectures=(amd64 arm64)
# Rust's name of the target, and the prefix of GCC's programs for it.
declare -A rust_target=([amd64]=x86_64-unknown-linux-gnu [arm64]=aarch64-unknown-linux-gnu)
declare -A gnu_prefix=([amd64]=x86_64-linux-gnu [arm64]=aarch64-linux-gnu)

# Where the image and the files of the release are published. Both end up in the artifacts.
image=${RELEASE_IMAGE:-registry.example.com/roster}
url=${RELEASE_URL:-https://example.com/roster/v$version}

# Of the version that controlplane/go.mod pins, so that every machine renders the same.
helm() { "${HELM:-$(controlplane/build.sh)/helm}" "$@"; }

require() { # PROGRAM...
    local program
    for program in "$@"; do
        if ! command -v "$program" >/dev/null; then
            echo "$program is missing: see \"Releases\" in CONTRIBUTING.md" >&2
            exit 1
        fi
    done
}

# Writes a tar archive of a folder to the standard output. Its bytes depend only on names, contents, and what is executable.
archive() { # FOLDER NAME...
    local folder=$1; shift
    tar --create --format=gnu --directory "$folder" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" "$@"
}
