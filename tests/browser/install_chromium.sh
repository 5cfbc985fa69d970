#!/usr/bin/env bash
# Finds Chromium, or installs it: from Debian's packages where they are, else Playwright's own build.
set -u
python=${1:-python3}
found() { for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v "$name" && return 0; done; return 1; }
found >/dev/null && exit 0
if command -v apt-get >/dev/null; then
  as_root=""; [ "$(id -u)" = 0 ] || as_root="sudo -n"
  echo "Installing Chromium for the browser tests..."
  export DEBIAN_FRONTEND=noninteractive
  $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null
  found >/dev/null && exit 0
fi
"$python" -m playwright install chromium && exit 0
echo "Chromium could not be installed: install it by hand and run make test again." >&2
exit 1
