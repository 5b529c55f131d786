#!/usr/bin/env bash
# Builds the image of each architecture, and writes one OCI archive with an index of them.
source "$(dirname "$0")/common.sh"
require buildah

folder=$(mktemp -d)
list=roster-release-$$
images=()
clean_up() {
    rm -rf "$folder"
    buildah manifest rm "$list" >/dev/null 2>&1 || true
    buildah rmi "${images[@]}" >/dev/null 2>&1 || true
}
trap clean_up EXIT
for arch in "${architectures[@]}"; do
    mkdir "$folder/$arch"
    install -m 0755 "$build/${rust_target[$arch]}/release/roster" "$folder/$arch/roster"
    # The identity label is the version of buildah.
    images+=("$(buildah build --quiet --platform "linux/$arch" --timestamp "$SOURCE_DATE_EPOCH" --identity-label=false \
        --label org.opencontainers.image.title=roster --label "org.opencontainers.image.version=$version" \
        --label org.opencontainers.image.licenses=Apache-2.0 --manifest "$list" --file Dockerfile "$folder/$arch")")
done
buildah manifest push --quiet --all --format oci "$list" "oci:$folder/oci:$image:$version"
mkdir -p "$out"
# buildah itself records the current time in archives.
archive "$folder/oci" blobs index.json oci-layout >"$out/roster-$version-image.tar"
