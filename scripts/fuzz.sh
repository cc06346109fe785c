#!/usr/bin/env bash
#
# Fuzzes every fuzz test of the module, one after the other, each for FUZZ_TIME.
# It goes on after a find, and at the end names all of them and fails.
#
#   scripts/fuzz.sh [REGEXP]     those whose name matches; default: all
#   FUZZ_TIME=10m scripts/fuzz.sh
#
# What a find needs to be seen again is written below testdata/fuzz by go test,
# and replayed by every plain `go test` from then on.

set -euo pipefail
shopt -s inherit_errexit # what does not compile must not be left out silently

time=${FUZZ_TIME:-1m}
workers=${FUZZ_WORKERS:-$(nproc)}
wanted=${1:-.}

# A fuzzer that does not come to an end by itself is a find too. It has so long
# for its build, for the corpus and to minimise what it has found.
grace=300 # seconds

die() {
	printf 'fuzz: %s\n' "$*" >&2
	exit 2
}

# seconds turns 30s, 1m or 2h into a number.
seconds() {
	[[ $1 =~ ^([1-9][0-9]*)([smh])$ ]] || die "FUZZ_TIME is \"$1\": write for example 30s, 1m or 2h"
	case ${BASH_REMATCH[2]} in
	s) echo "${BASH_REMATCH[1]}" ;;
	m) echo "$((BASH_REMATCH[1] * 60))" ;;
	h) echo "$((BASH_REMATCH[1] * 3600))" ;;
	esac
}

# targets prints "PACKAGE NAME" for every fuzz test. Only packages that have one
# are asked: to list the tests of the others would build them all.
targets() {
	local dir
	grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
		go test -list '^Fuzz' "$dir" | awk -v dir="$dir" '/^Fuzz/ { print dir, $1 }'
	done
}

# fuzz runs one fuzz test of a package and keeps what it says in a file:
# fuzz PACKAGE NAME FILE.
fuzz() {
	timeout --kill-after=10 "$limit" \
		go test -run='^$' -fuzz="^$2\$" -fuzztime="$time" -fuzzminimizetime=10s -parallel="$workers" "$1" >"$3" 2>&1
}

cd "$(dirname "$0")/.."
limit=$(($(seconds "$time") + grace))
log=$(mktemp)
trap 'rm -f "$log"' EXIT

list=$(targets)
mapfile -t chosen < <(awk -v re="$wanted" '$2 ~ re' <<<"$list")
((${#chosen[@]} > 0)) || die "no fuzz test matches \"$wanted\""
printf 'fuzz: %d fuzz tests, %s each, %d workers\n' "${#chosen[@]}" "$time" "$workers"

finds=()
for target in "${chosen[@]}"; do
	read -r package name <<<"$target"
	status=0
	fuzz "$package" "$name" "$log" || status=$?
	execs=$(grep -o 'execs: [0-9]*' "$log" | tail -n1 | grep -o '[0-9]*' || echo 0)
	total=$(grep -o 'total: [0-9]*' "$log" | tail -n1 | grep -o '[0-9]*' || echo 0)
	printf '%-22s %-20s %10d runs %6d in its corpus  %s\n' "$name" "$package" "$execs" "$total" "$( ((status == 0)) && echo ok || echo FIND)"
	if ((status != 0)); then
		((status != 124 && status != 137)) || echo "fuzz: $name did not end within $limit s" >>"$log"
		grep -v '^fuzz: elapsed' "$log" | sed 's/^/    /'
		finds+=("$name in $package")
	fi
done

if ((${#finds[@]} > 0)); then
	printf 'fuzz: %d finds; see above how to run them again:\n' "${#finds[@]}"
	printf '  %s\n' "${finds[@]}"
	exit 1
fi
