#!/bin/sh
# What no wheel carries: `ip` and `nft`, for the one test that makes network namespaces. Only as root, only where missing.
if command -v ip >/dev/null && command -v nft >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "ip or nft is missing and cannot be installed here: the network namespace test will be skipped" >&2
  exit 0
fi
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nftables iproute2 >/dev/null ||
  echo "nftables could not be installed: the network namespace test will be skipped" >&2
