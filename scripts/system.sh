#!/bin/sh
# What no wheel carries: `ip` and `nft`, for tests that make network namespaces. Only as root, only where missing.
if command -v ip >/dev/null && command -v nft >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "ip or nft is missing and cannot be installed here: tests in network namespaces will fail (EGRESS_TESTS=skip leaves them out)" >&2
  exit 0
fi
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nftables iproute2 >/dev/null ||
  echo "nftables could not be installed: tests in network namespaces will fail (EGRESS_TESTS=skip leaves them out)" >&2
