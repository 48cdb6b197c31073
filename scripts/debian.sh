# Functions about Debian's packages, sourced by install-debian.sh (which defines say, fail, local_dir).
# shellcheck shell=bash
# shellcheck disable=SC2154  # local_dir comes from the script that sources this one

policy=/usr/sbin/policy-rc.d
policy_mark='# written by kakuremichi while it installs packages'

need_bookworm() {
  local codename
  codename=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-unknown}")
  [[ $codename == bookworm ]] && return
  fail "this script knows Debian 12 (bookworm), this is $codename. Install by hand the packages named at the top of" \
    "scripts/install-debian.sh and wireguard-go 0.0.20231211 or newer (KAKUREMICHI_WIREGUARD_GO names it)," \
    "then run 'scripts/install-debian.sh python'."
}

# One name a line; nothing when all are there. dpkg-query fails for a name it has never heard of.
missing_packages() {
  local installed
  installed=$( (dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true) |
    awk '$2 == "installed" {print $1}')
  comm -23 <(printf '%s\n' "$@" | sort -u) <(sort -u <<<"$installed")
}

install_packages() {
  guard_services
  trap unguard_services EXIT
  apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null
  apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" >/dev/null
  unguard_services
  trap - EXIT
}

# HAProxy's package starts a service on the ports that our gateways want; the policy program tells it not to.
# One that somebody else put there stays and decides; ours that a killed run left behind is taken over.
guard_services() {
  [[ -e $policy ]] && return
  printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
  chmod 755 "$policy"
}

unguard_services() {
  if grep -qsF "$policy_mark" "$policy"; then rm -f "$policy"; fi
}

# The URI of Debian's main archive as this system's own sources name it: whoever uses a mirror keeps using it.
debian_uri() {
  local file uri=
  for file in /etc/apt/sources.list.d/*.sources; do
    if [[ -f $file && -z $uri ]]; then uri=$(deb822_uri "$file"); fi
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    if [[ -f $file && -z $uri ]]; then uri=$(one_line_uri "$file"); fi
  done
  [[ -n $uri ]] || fail "no enabled Debian source with suite bookworm and component main found under /etc/apt"
  printf '%s\n' "$uri"
}

deb822_uri() {
  awk '
    function flush() {
      if (tolower(field["enabled"]) != "no" && has("types", "deb") && has("suites", "bookworm") &&
          has("components", "main")) { split(field["uris"], uris, " "); if (!found) print uris[1]; found = 1 }
      delete field; name = ""
    }
    function has(key, word) { return (" " field[key] " ") ~ (" " word " ") }
    /^#/ { next }
    /^[ \t]*$/ { flush(); next }
    /^[ \t]/ { sub(/^[ \t]+/, ""); field[name] = field[name] " " $0; next }
    { name = tolower($0); sub(/:.*/, "", name); sub(/^[^:]*:[ \t]*/, ""); field[name] = $0 }
    END { flush() }' "$1"
}

one_line_uri() {
  sed -E 's/\[[^]]*\]//' "$1" | awk '$1 == "deb" && $3 == "bookworm" && (" " $0 " ") ~ / main / {print $2; exit}'
}

private_apt_options() {
  printf '%s\n' -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$local_dir/apt/sources.d" \
    -o "Dir::State=$local_dir/apt/state" -o "Dir::State::status=/var/lib/dpkg/status" \
    -o "Dir::Cache=$local_dir/apt/cache" -o "APT::Sandbox::User=$(id -un)"
}

private_apt() {
  local options
  mapfile -t options < <(private_apt_options)
  apt-get "${options[@]}" -q "$@"
}

private_apt_cache() {
  local options
  mapfile -t options < <(private_apt_options)
  apt-cache "${options[@]}" "$@"
}

# Once per run: the lists of bookworm and its backports, signed by the Debian archive keyring.
refresh_private_apt() {
  local uri
  [[ ${private_apt_fresh:-} == yes ]] && return
  uri=$(debian_uri)
  mkdir -p "$local_dir"/apt/{sources.d,state/lists/partial,cache/archives/partial}
  printf '%s\n' "Types: deb" "URIs: $uri" "Suites: bookworm bookworm-backports" "Components: main" \
    "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" >"$local_dir/apt/sources.d/debian.sources"
  private_apt update >/dev/null
  private_apt_fresh=yes
}

# unpack PACKAGE[/SUITE] DIR: DIR becomes exactly the package's content, in one rename.
unpack() {
  local fresh=$2.new
  refresh_private_apt
  rm -rf "$fresh" "$local_dir/download"
  mkdir -p "$fresh" "$local_dir/download"
  (cd "$local_dir/download" && private_apt download "$1" >/dev/null)
  dpkg -x "$local_dir"/download/*.deb "$fresh"
  rm -rf "$2" "$local_dir/download"
  mv "$fresh" "$2"
}
