#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# wheel_packages.sh: as root, what the system must have before a wheel is built. For the images of
# cibuildwheel (dnf) and for Debian (apt); the sources of all else are fetched by CMake.
set -eu
if command -v dnf >/dev/null; then
  dnf install -y --enablerepo=crb hwloc-devel pkgconf-pkg-config git
else
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    g++ git libhwloc-dev pkg-config
fi
