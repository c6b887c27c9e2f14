# relayer as a step of a pipeline: about 25 MB, with the shell and the certificates of Alpine, without root.
#
#   docker build -t relayer .
#   docker run --rm -v "$PWD:/work" relayer relayer split app.tar

ARG RUST=docker.io/library/rust:1-alpine
ARG BASE=docker.io/library/alpine:3

FROM $RUST AS build
RUN apk add --no-cache gcc musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/relayer

FROM $BASE
COPY --from=build /src/target/release/relayer /usr/bin/relayer
# The cache of downloads is here, for whatever user the container has.
ENV HOME=/tmp
WORKDIR /work
USER 65532:65532
CMD ["relayer", "--help"]
