# Clusters as containers; to be sourced by `node` and `api-server`. A cluster called NAME is the container
# NAME with the label moe-operator.cluster=KIND, and the folder build/cluster/NAME, which is /cluster
# inside: kubeconfigs, keys, logs. Both go when it is taken down.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=tools/podman.sh
source "$root/tools/podman.sh"

folder_of() { echo "$root/build/cluster/$1"; }

# the_name KIND: the cluster that commands without a name mean: $MOE_CLUSTER, or the only one of KIND.
the_name() {
  local names
  names=${MOE_CLUSTER:-$(podman_ ps -a --filter "label=moe-operator.cluster=$1" --filter "label=moe-operator.root=$root" --format '{{.Names}}')}
  if [[ -z $names || $(wc -l <<<"$names") -ne 1 ]]; then
    echo "error: name one cluster in MOE_CLUSTER; running: ${names:-none}" >&2
    exit 1
  fi
  echo "$names"
}

# The programs and the image of a cluster's node, made when they are missing: sets $binaries and $image.
prepare_cluster() {
  binaries=$("$here/binaries")
  image=$(ensure_image moe-operator-node "$here/node.Containerfile" "the image of a cluster's node (once)")
}

# start_cluster KIND NAME COMMAND [podman run argument ...]: returns when it is ready. Interrupted or
# failed, it leaves nothing but, on failure, the end of its logs on stderr.
start_cluster() {
  local kind=$1 name=$2 command=$3
  shift 3
  local binaries image folder
  prepare_cluster
  folder=$(folder_of "$name")
  mkdir -p -m 700 "$folder"
  trap 'stop_cluster "$name"; exit 130' INT TERM HUP
  # A cluster nobody took down ends by itself.
  podman_ run -d --rm --init --name "$name" --timeout "${MOE_CLUSTER_SECONDS:-86400}" "${limits[@]}" \
    --label "moe-operator.cluster=$kind" --label "moe-operator.root=$root" \
    -v "$folder:/cluster" -v "$here/inside:/inside:ro" -v "$binaries:/opt/cluster:ro" \
    "$@" "$image" "$command" >/dev/null
  local tenths=1200
  until [[ -e $folder/ready ]]; do
    if ((tenths-- == 0)) || ! podman_ container exists "$name"; then
      tail -n 5 "$folder"/log/* >&2 || true
      echo "error: the cluster $name did not come up" >&2
      stop_cluster "$name"
      exit 1
    fi
    sleep 0.1
  done
  trap - INT TERM HUP
}

# stop_cluster NAME: its processes and their network, memory and files.
stop_cluster() {
  trap '' INT TERM HUP
  # --depend: whoever still runs in its network (tools/cluster/run) ends with it.
  podman_ rm -f --depend -t 0 -v "$1" >/dev/null 2>&1 || true
  rm -rf "$(folder_of "$1")"
}
