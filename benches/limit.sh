#!/usr/bin/env bash
# pontoon against the limit of this machine and against the kernel's bridge, in one run, in alternating pairs.
#
#   benches/limit.sh [--pairs 5] [--seconds 4] [--paths "direct out in size"] [--ports 1000] [--out FILE]
#                    [--dut pontoon|forward] [--binary target/release/pontoon]
#
# Needs root, cargo, iperf3, iproute2, ping, taskset.
# Only namespaces made here are used, without a way out; they and every process started are removed at the end.
#
# paths   direct  container to container            forward, pontoon, bridge (veth and the kernel's bridge)
#         out     container to a server in the uplink TUN's own namespace, masqueraded      forward, pontoon
#         in      from there to the container through published ports                       forward, pontoon
#         size    pontoon's memory, start, and wake-ups at rest                             pontoon
# Latencies (ping, rr: request and response, crr: connect, request and response) are taken with the switch on the last CPU
# and both peers on the first; ping_one_cpu with all of them on the first, where every instruction between counts.
# --dut forward puts the measuring stick in pontoon's place too: what this script alone makes of two equals (noise).
# FILE gets every single figure as a line of JSON; the table shows medians, spread, and the ratio to forward.
set -euo pipefail
cd "$(dirname "$0")/.."

pairs=5 seconds=4 paths="direct out in size" ports=1000 out=target/limit.jsonl dut=pontoon binary=target/release/pontoon
while [ $# -gt 0 ]; do
  case $1 in
    --pairs) pairs=$2 ;; --seconds) seconds=$2 ;; --paths) paths=$2 ;; --ports) ports=$2 ;; --out) out=$2 ;;
    --dut) dut=$2 ;; --binary) binary=$2 ;;
    *) sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2 || { echo "limit.sh: $1 needs a value" >&2; exit 2; }
done
for tool in iperf3 ip ss ping taskset; do
  command -v $tool >/dev/null || { echo "limit.sh: $tool is missing (Debian: iperf3 iproute2 iputils-ping util-linux)" >&2; exit 1; }
done
cargo build --quiet --release --examples
[ "$dut" = forward ] || cargo build --quiet --release
forward=$PWD/target/release/examples/forward load=$PWD/target/release/examples/load binary=$(realpath "$binary")

# --- what is cleaned up, whatever happens -------------------------------------------------------------------------------
prefix=limit$$ tmp=$(mktemp -d) started=()
a=$prefix-a b=$prefix-b world=$prefix-w kernel=$prefix-k
every=0-$(($(nproc) - 1)) last=$(($(nproc) - 1)) peers=$every switch=
teardown() {
  local p n
  for p in "${started[@]}"; do kill "$p" 2>/dev/null || true; done
  for p in "${started[@]}"; do wait "$p" 2>/dev/null || true; done
  started=() switch=
  for n in $(ip netns list | awk -v p="$prefix-" 'index($1, p) == 1 { print $1 }'); do ip netns del "$n"; done
}
trap 'teardown; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
die() { echo "limit.sh: $*" >&2; exit 1; }
background() { "$@" & started+=($!); }
eventually() { local i; for i in $(seq 100); do "$@" && return; sleep 0.05; done; die "gave up waiting for: $*"; }
namespaces() { local n; for n in "$@"; do ip netns add "$n"; ip -n "$n" link set lo up; done; }

# --- who carries the frames: each sets client, server (namespaces) and target (the server's address) ------------------------
start_forward() { # in the path `in` the roles are exchanged, as a published port does
  namespaces "$a" "$b"
  background "$forward" vnet "$a" "$b" >"$tmp/forward"
  switch=$!
  eventually grep -q ready "$tmp/forward"
  addresses
  [ "$1" != in ] || { client=$b server=$a target=172.31.0.2; }
}
start_bridge() {
  local x
  namespaces "$a" "$b" "$kernel"
  ip -n "$kernel" link add name br0 type bridge
  ip -n "$kernel" link set br0 up
  for x in a b; do
    ip -n "$kernel" link add name port-$x type veth peer name eth0 netns "$prefix-$x"
    ip -n "$kernel" link set port-$x master br0 up
  done
  addresses
}
addresses() {
  ip -n "$a" addr add 172.31.0.2/16 dev eth0
  ip -n "$b" addr add 172.31.0.3/16 dev eth0
  ip -n "$a" link set eth0 up
  ip -n "$b" link set eth0 up
  client=$a server=$b target=172.31.0.3
}
control() { local call=$1; shift; "$binary" "$call" --control "$tmp/control" "$@" >>"$tmp/log" 2>&1 || die "pontoon $call $*: $(tail -n 3 "$tmp/log")"; }
start_switch() { # sets switch (its pid) and ready_ms
  rm -f "$tmp/ready" "$tmp/control"
  mkfifo "$tmp/ready"
  local begin=${EPOCHREALTIME/./}
  "$binary" switch --control "$tmp/control" --subnet 172.31.0.0/16 --gateway 172.31.0.1 --ready-fd 3 "$@" 3>"$tmp/ready" >>"$tmp/log" 2>&1 &
  switch=$!
  started+=($switch)
  timeout 5 head -c 1 "$tmp/ready" >"$tmp/byte" || true
  ready_ms=$(awk -v us=$((${EPOCHREALTIME/./} - begin)) 'BEGIN { printf "%.1f", us / 1000 }')
  [ -s "$tmp/byte" ] || die "pontoon switch did not become ready: $(tail -n 3 "$tmp/log")"
}
start_pontoon() {
  local publish=()
  namespaces "$a"
  case $1 in
    direct)
      namespaces "$b"
      start_switch --uplink none
      control attach b --netns "/run/netns/$b" --ip 172.31.0.3
      client=$a server=$b target=172.31.0.3 ;;
    out | in)
      namespaces "$world"
      start_switch --uplink "tun:name=up0,address=192.0.2.10,peer=192.0.2.1/24,netns=/run/netns/$world"
      publish=(-p 5201:5201 -p 7000-7015:7000-7015 -p 7100:7100/udp)
      client=$a server=$world target=192.0.2.1
      [ "$1" = out ] || { client=$world server=$a target=192.0.2.10; } ;;
  esac
  control attach a --netns "/run/netns/$a" --ip 172.31.0.2 "${publish[@]}"
}

# --- what is measured ---------------------------------------------------------------------------------------------------
record() { # path who pair metric value
  [ -n "$5" ] || die "$1, $2: no figure for $4"
  printf '%s\t%s\t%s\t%s\n' "$1" "$4" "$2" "$5" >>"$tmp/table"
  printf '{"path":"%s","who":"%s","pair":%s,"metric":"%s","value":%s}\n' "$1" "$2" "$3" "$4" "$5" >>"$out"
}
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$2"; }
listens() { ip netns exec "$server" ss -Hltn "sport = :$1" | grep -q .; }
on() { local where=$1; shift; timeout $((seconds + 20)) ip netns exec "$where" taskset -c "$peers" "$@"; }
# Left to the scheduler, a latency has two values, three times apart: switch and peers on one CPU, or not. So it is told.
place() { # CPUs of the switch, CPUs of its peers
  peers=$2
  [ -z "$switch" ] || taskset -a -p -c "$1" "$switch" >/dev/null
}
cpu() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$switch/stat"; } # user and system ticks

measure() { # path who pair
  local before=0 mbit server_pid
  place "$every" "$every"
  eventually on "$client" ping -q -c 1 -W 1 "$target" >/dev/null

  on "$server" iperf3 -s -1 >/dev/null & server_pid=$!; started+=($server_pid)
  eventually listens 5201
  [ -z "$switch" ] || before=$(cpu)
  on "$client" iperf3 -c "$target" -t "$seconds" -f m >"$tmp/iperf" || die "$1, $2: iperf3: $(tail -n 2 "$tmp/iperf")"
  mbit=$(awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) }' "$tmp/iperf")
  record "$@" tcp_gbit_s "$(awk -v m="$mbit" 'BEGIN { printf "%.3f", m / 1000 }')"
  [ -z "$switch" ] || record "$@" cpu_s_per_gbyte "$(awk -v t=$(($(cpu) - before)) -v hz="$(getconf CLK_TCK)" -v m="$mbit" -v s="$seconds" \
    'BEGIN { printf "%.4f", t / hz / (m * s / 8000) }')"
  wait $server_pid

  on "$server" "$load" sink 7100 >"$tmp/sink" & server_pid=$!; started+=($server_pid)
  eventually grep -q ready "$tmp/sink"
  on "$client" "$load" send "$target:7100" 64 "$((seconds < 3 ? seconds : 3))" >"$tmp/send"
  wait $server_pid || die "$1, $2: no datagram arrived"
  record "$@" udp64_per_s "$(field per_second "$tmp/sink")"

  place "$last" 0
  [ "$1" = in ] || ping_median ping_p50_us "$@" # there the address is pontoon's own, and pontoon answers
  on "$server" "$load" serve 7000 16 >/dev/null & server_pid=$!; started+=($server_pid)
  eventually listens 7015
  on "$client" "$load" rr "$target:7000" 10000 >"$tmp/rr"
  record "$@" rr_p50_us "$(field p50_us "$tmp/rr")"
  on "$client" "$load" crr "$target:7000" 16 2000 >"$tmp/crr"
  record "$@" crr_p50_us "$(field p50_us "$tmp/crr")"
  record "$@" crr_p99_us "$(field p99_us "$tmp/crr")"
  place 0 0
  [ "$1" = in ] || ping_median ping_one_cpu_p50_us "$@"
}
ping_median() { # metric, path who pair
  local metric=$1; shift
  on "$client" ping -i 0.002 -c 500 "$target" >"$tmp/ping" || die "$1, $2: ping: $(tail -n 2 "$tmp/ping")"
  record "$@" "$metric" "$(sed -n 's/.*time=\([0-9.]*\) ms/\1/p' "$tmp/ping" | median | awk '{ print $1 * 1000 }')"
}

family() { [ -d "/proc/$1" ] || die "pontoon is gone: $(tail -n 3 "$tmp/log")"; echo "$1"; local p; for p in $(cat "/proc/$1/task/$1/children"); do family "$p"; done; } # the process and its helpers
resident() { local p all; all=$(family "$switch") || exit; for p in $all; do cat "/proc/$p/status"; done | awk '/^VmRSS/ { kb += $2 } END { printf "%.2f", kb / 1024 }'; }
switches() { local p all; all=$(family "$switch") || exit; for p in $all; do cat /proc/"$p"/task/*/status; done | awk '/ctxt_switches/ { n += $2 } END { print n }'; }
measure_size() { # pair
  local before n
  namespaces "$a" "$b"
  start_switch --uplink none
  record size pontoon "$1" ready_ms "$ready_ms"
  control attach a --netns "/run/netns/$a" --ip 172.31.0.2
  control attach b --netns "/run/netns/$b" --ip 172.31.0.3
  sleep 5 # neighbour announcements and router solicitations of two new links are not rest
  record size pontoon "$1" resident_2_ports_mib "$(resident)"
  before=$(switches)
  sleep 5
  record size pontoon "$1" context_switches_5s "$(($(switches) - before))"
  [ "$1" = 1 ] || { teardown; return; }
  # A hundred ports to a namespace: a thousand namespaces would measure the kernel.
  for ((n = 2; n < ports; n++)); do
    ((n % 100 != 2)) || namespaces "$prefix-p$((n / 100))"
    control attach "p$n" --netns "/run/netns/$prefix-p$(((n - 2) / 100))" --ifname "eth$n" --ip "172.31.$((1 + n / 250)).$((1 + n % 250))"
  done
  sleep 5
  record size pontoon "$1" "resident_${ports}_ports_mib" "$(resident)"
  teardown
}

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
report() {
  local path metric who reference middle
  printf '%-8s %-24s %-8s %11s %11s %11s %8s\n' path metric who median min max ratio
  cut -f 1,2 "$tmp/table" | awk '!seen[$0]++' | while read -r path metric; do
    reference=
    for who in forward pontoon bridge; do
      awk -v p="$path" -v m="$metric" -v w="$who" '$1 == p && $2 == m && $3 == w { print $4 }' "$tmp/table" | sort -g >"$tmp/values"
      [ -s "$tmp/values" ] || continue
      middle=$(median <"$tmp/values")
      reference=${reference:-$([ $who = forward ] && echo "$middle" || true)}
      awk -v p="$path" -v m="$metric" -v w="$who" -v mid="$middle" -v ref="$reference" '{ v[NR] = $1 } END {
        printf "%-8s %-24s %-8s %11.6g %11.6g %11.6g %8s\n", p, m, w, mid, v[1], v[NR], (ref > 0 ? sprintf("%.2f", mid / ref) : "-") }' "$tmp/values"
    done
  done
}

mkdir -p "$(dirname "$out")"
: >"$out"
echo "$(uname -sr), $(nproc) CPUs, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1); $pairs pairs, $seconds s of TCP each; in pontoon's place: $dut"
for ((pair = 1; pair <= pairs; pair++)); do
  for path in $paths; do
    case $path in
      direct) carriers="forward pontoon bridge" ;;
      out | in) carriers="forward pontoon" ;;
      size) [ "$dut" = pontoon ] && measure_size "$pair" || echo "size: left out, $dut is not pontoon"; continue ;;
      *) die "unknown path $path: direct, out, in, size" ;;
    esac
    for who in $carriers; do
      carrier=$who
      [ "$who" != pontoon ] || carrier=$dut
      echo "pair $pair of $pairs: $path, $who" >&2
      "start_$carrier" "$path"
      measure "$path" "$who" "$pair"
      teardown
    done
  done
done
report
echo "every figure: $out"
