#!/usr/bin/env bash
# A real Apptainer for the tests on Debian 12, which has no package of it; as root.
#
# Debian's unstable release has one, built for a newer C library. It is installed with a C library
# of its own beside it. `apt-get purge apptainer` removes it.
set -euo pipefail

tell() { echo "apptainer.sh: $*" >&2; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" >/dev/null; }

if command -v apptainer >/dev/null; then exit 0; fi
[ "$(id -u)" = 0 ] || { tell "installing needs root"; exit 1; }

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/archives/partial
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
    awk '$3 == "main" && $2 !~ /-/ { print $1; exit }')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" \
    >"$work/sources.list"
sid=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=-
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache::Archives=$work/archives"
    -o APT::Sandbox::User=root)
tell "installing"
apt update
apt install --yes --no-install-recommends patchelf squashfuse
apt "${sid[@]}" update
(cd "$work" && apt "${sid[@]}" download apptainer libc6)

dpkg-deb --raw-extract "$work"/apptainer_*.deb "$work/tree"
dpkg-deb --extract "$work"/libc6_*.deb "$work/libc"
libraries=/usr/lib/apptainer-libc
mkdir -p "$work/tree$libraries"
cp --dereference "$work"/libc/usr/lib/x86_64-linux-gnu/*.so.* "$work/tree$libraries/"
for program in usr/bin/apptainer usr/lib/x86_64-linux-gnu/apptainer/bin/starter; do
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" \
        --set-rpath "$libraries:/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu" \
        "$work/tree/$program"
done
# As udev leaves it on other machines: users mount image files through it.
if [ -e /dev/fuse ]; then chmod 666 /dev/fuse; fi
# without systemd; and where root lacks a capability, asking for all of them is an error
sed -i 's/^systemd cgroups = .*/systemd cgroups = no/
        s/^root default capabilities = .*/root default capabilities = no/' \
    "$work/tree/etc/apptainer/apptainer.conf"
sed -i 's/, libc6 ([^)]*)//; s/^Version: .*/&+calgrid/' "$work/tree/DEBIAN/control"
rm -f "$work/tree/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zgzip --build "$work/tree" "$work/apptainer.deb" >/dev/null
apt install --yes --no-install-recommends "$work/apptainer.deb"
apptainer --version >&2
