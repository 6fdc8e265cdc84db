# How this repository's scripts use podman; to be sourced. Defines:
#   say TEXT                 a heading on stderr
#   install_podman           installs podman, runc and catatonit when they are missing
#   podman_ ARG ...          podman with runc (crun fails where cgroup v1 and v2 are mixed)
#   ensure_image NAME CONTAINERFILE WHAT
#                            builds localhost/NAME, tagged by its Containerfile's content, and prints it
#   limits                   arguments of `run` and `build`: podman's own are above what a user may set
#   ca_args                  arguments of `run` and `build`: the host's certificate authorities, for
#                            machines behind a proxy that has its own
#   set_idle_args            sets idle_args, arguments of `run`: only with processors that nothing else wants

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

podman_() { podman --runtime "$(command -v runc || echo /usr/sbin/runc)" "$@"; }

# Version 5 warns at each call; nothing here depends on it.
export PODMAN_IGNORE_CGROUPSV1_WARNING=1

# The wanted limit, or the highest that this shell may set.
limit() {
  local highest
  highest=$(ulimit -H "$1")
  [[ $highest == unlimited || $highest -gt $2 ]] && highest=$2
  echo "$highest:$highest"
}
limits=(--ulimit "nofile=$(limit -n 20000)" --ulimit "nproc=$(limit -u 9000)")
ca_file=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
ca_args=()
if [[ -f $ca_file ]]; then
  ca_args+=(-v "$ca_file:/etc/ssl/certs/ca-certificates.crt:ro")
fi

set_idle_args() {
  idle_args=(--cpu-shares 2)
  # Where a container is weighed against podman's others alone, and not against the pods of a test
  # cluster, which cgroup v1 has at the root: a group of its own beside those.
  local cgroups=/sys/fs/cgroup/cpu
  [[ -w $cgroups && $(podman_ info --format '{{.Host.CgroupManager}}') == cgroupfs ]] || return 0
  mkdir -p "$cgroups/moe-idle"
  { echo 1 >"$cgroups/moe-idle/cpu.idle" || echo 2 >"$cgroups/moe-idle/cpu.shares"; } 2>/dev/null
  idle_args+=(--cgroup-parent /moe-idle)
}

install_podman() {
  local missing=()
  command -v podman >/dev/null || missing+=(podman)
  command -v runc >/dev/null || missing+=(runc)
  [[ -x /usr/libexec/podman/catatonit || -x /usr/bin/catatonit ]] || missing+=(catatonit)
  [[ ${#missing[@]} -eq 0 ]] && return
  if [[ $(id -u) -ne 0 ]]; then
    echo "error: ${missing[*]} not installed. Run this once as root, or install: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  say "Installing ${missing[*]} with apt-get (the build runs in a Debian 13 container)"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The base image comes from a container registry; where none can be reached it is made from
# Debian's own packages.
ensure_base() {
  local base=docker.io/library/debian:trixie-slim
  podman_ image exists "$base" && return
  say "Getting the base image (debian:trixie-slim)"
  timeout 60 podman --runtime "$(command -v runc || echo /usr/sbin/runc)" pull -q "$base" >/dev/null 2>&1 && return
  say "No container registry reached: making the base image from Debian packages with mmdebstrap"
  command -v mmdebstrap >/dev/null ||
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      mmdebstrap debian-archive-keyring >/dev/null
  local work
  work=$(mktemp -d)
  # mmdebstrap reads the mirror from the host's own Debian sources; elsewhere it uses its default.
  local sources=()
  if [[ -f /etc/apt/sources.list.d/debian.sources ]]; then
    sed 's/bookworm/trixie/g; /^#/d' /etc/apt/sources.list.d/debian.sources >"$work/debian.sources"
    sources=("$work/debian.sources")
  fi
  mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --customize-hook='cd "$1/etc/apt/sources.list.d" 2>/dev/null && for f in *; do [ -e "$f" ] && [ "$f" != debian.sources ] && mv "$f" debian.sources; done; true' \
    trixie "$work/base.tar" "${sources[@]}"
  podman_ import -q "$work/base.tar" "$base" >/dev/null
  rm -rf "$work"
}

ensure_image() {
  local name=$1 containerfile=$2 what=$3 tag
  tag=localhost/$name:$(sha256sum "$containerfile" | cut -c1-16)
  if ! podman_ image exists "$tag"; then
    ensure_base
    say "Building $what"
    local args=("${limits[@]}" "${ca_args[@]}")
    [[ ${#ca_args[@]} -gt 0 ]] && args+=(--env PIP_CERT=/etc/ssl/certs/ca-certificates.crt)
    [[ -f /etc/pip.conf ]] && args+=(-v /etc/pip.conf:/etc/pip.conf:ro)
    local log
    log=$(mktemp)
    if ! podman_ build --network host "${args[@]}" -t "$tag" -f "$containerfile" "$(dirname "$containerfile")" >"$log" 2>&1; then
      tail -n 40 "$log" >&2
      echo "error: $what could not be made; the whole log is in $log" >&2
      exit 1
    fi
    rm -f "$log"
  fi
  echo "$tag"
}
