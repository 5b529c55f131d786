# Roster's image: one static program and nothing else. It runs as an unprivileged user and does not write to the root
# file system. `make image` builds and strips the program, and passes it as the context.
FROM scratch
COPY --chmod=0755 roster /roster
USER 65532:65532
ENTRYPOINT ["/roster"]
