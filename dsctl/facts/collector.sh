# What a host says about itself. POSIX sh, piped to `sh -s -- STATE_DIR [MODEL_DIR…]`; installs and changes nothing.
# Every answer is a line `@@ name code` and its text, each line behind one blank; `@@ end` proves that all arrived.
LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/cuda/bin"
export LC_ALL PATH
state=${1:-/var/lib/dsctl}
[ $# -eq 0 ] || shift
if command -v timeout >/dev/null 2>&1; then limit="timeout 20"; else limit=; fi

answer() { # NAME COMMAND…
    asked=$1
    shift
    said=$("$@" 2>&1)
    printf '@@ %s %d\n' "$asked" $?
    printf '%s\n' "$said" | sed 's/^/ /'
}
whole() { # NAME FILE: the dot tells whether the last line had an end
    [ -r "$2" ] || return 0
    printf '@@ %s 0\n' "$1"
    { cat "$2"; echo .; } | sed 's/^/ /'
}
listening() { awk '$4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null; }
disk() { # the file system that holds a path, or will once it is made
    path=$1
    while [ ! -e "$path" ]; do path=$(dirname "$path"); done
    df -P -k "$path" | tail -n 1
    point=$(df -P "$path" | tail -n 1 | sed 's/.*% *//')
    awk -v point="$point" '$2 == point { options = $4 } END { print options }' /proc/mounts
}
cgroup() { if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo 2; else echo 1; fi; }
init() { [ -d /run/systemd/system ] || { echo "systemd does not run here"; return 1; }; systemctl --version; }
cards() {
    what=index,uuid,name,memory.total,memory.free,compute_cap,mig.mode.current
    $limit nvidia-smi --query-gpu=$what --format=csv,noheader,nounits
}
loaded() { cat /sys/module/nvidia/version 2>/dev/null || sed -n 's/.*Kernel Module[^0-9]*\([0-9.]*\).*/\1/p' /proc/driver/nvidia/version; }
cuda() { $limit nvidia-smi -q -d COMPUTE | sed -n 's/^CUDA Version *: *//p'; }
toolkit() { nvidia-ctk --version 2>/dev/null || nvidia-container-cli --version; }
model() { # names, sizes and, of small files, hashes
    cd "$1" || return 1
    for file in *.json *.safetensors *.model *.jinja *.txt; do
        [ -f "$file" ] || continue
        bytes=$(wc -c <"$file")
        mark=-
        [ "$bytes" -gt 1048576 ] || mark=$(sha256sum <"$file" | cut -d ' ' -f 1)
        echo "$bytes $mark $file"
    done
}

answer time date +%s.%N
answer os cat /etc/os-release
answer kernel uname -r
answer arch uname -m
answer cores getconf _NPROCESSORS_ONLN
answer memory cat /proc/meminfo
answer addresses ip -o addr show
answer ports listening
answer cgroup cgroup
answer systemd init
answer disk:state disk "$state"
if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; then
    answer driver loaded
    answer cards cards
    answer card_processes $limit nvidia-smi --query-compute-apps=gpu_uuid,pid --format=csv,noheader,nounits
    answer cuda cuda
    answer toolkit toolkit
    if ls /dev/nvidia-nvswitch* >/dev/null 2>&1; then answer fabric $limit nv-fabricmanager --version; fi
fi
number=0
for directory in "$@"; do
    printf '@@ model:%d 0\n %s\n' "$number" "$directory"
    answer "listing:$number" model "$directory"
    answer "disk:model:$number" disk "$directory"
    number=$((number + 1))
done
if [ -d "$state" ] && [ -r "$state" ]; then
    printf '@@ state 0\n'
    for project in "$state"/*/; do
        [ -d "$project" ] || continue
        name=$(basename "$project")
        printf '@@ project:%s 0\n' "$name"
        [ -r "$project" ] || { printf '@@ closed:%s 1\n' "$name"; continue; }
        for file in "$project"* "$project"releases/*.json "$project"gateway/replicas.json "$project"nginx/*; do
            [ -f "$file" ] || continue
            short=${file#"$project"}
            case $short in
            journal.jsonl) answer "journal:$name" tail -n 100 "$file" ;;
            loads.jsonl) answer "loads:$name" tail -n 200 "$file" ;;
            *) [ "$(wc -c <"$file")" -gt 262144 ] || whole "file:$name/$short" "$file" ;;
            esac
        done
    done
elif [ -e "$state" ]; then
    printf '@@ state 1\n %s cannot be read by this user\n' "$state"
fi
echo "@@ end 0"
