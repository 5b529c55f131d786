# Roster's image: one static program and nothing else. It runs as nobody in particular, on a root file system that it never
# writes to. `make image` builds the program, strips it and hands it over as the context.
FROM scratch
COPY --chmod=0755 roster /roster
USER 65532:65532
ENTRYPOINT ["/roster"]
