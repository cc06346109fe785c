#!/usr/bin/env bash
#
# Installs the Debian packages that the tests drive tiproxy with: real servers
# and their own clients, and what a race-detecting build needs. Installs only
# what is missing, and bars every service from starting while it does: the
# tests run the servers themselves, from directories of their own.
#
#   scripts/packages.sh           install what is missing
#   scripts/packages.sh --list    print the names, one a line

set -euo pipefail

packages=(
	bsdutils          # script(1) and friends
	chromium          # for the dashboard
	curl
	docker-compose
	docker.io
	gcc               # the race detector links with cgo
	haproxy           # a peer to compare with
	iproute2
	iptables          # for docker's published ports
	libc6-dev         # headers for cgo; only recommended by gcc
	libnginx-mod-stream # nginx as a TCP proxy, a peer to compare with
	mariadb-client
	mariadb-server
	ncat
	netcat-openbsd    # nc
	nginx-light
	postgresql        # brings initdb and pgbench along
	procps
	prometheus        # promtool
	python3
	redis-server
	redis-tools       # redis-cli, redis-benchmark
	socat             # a peer to compare with
	systemd           # systemd-socket-activate and -proxyd, a peer to compare with
	telnet
	util-linux        # setpriv, setsid, nsenter, unshare
)

# policy is asked by invoke-rc.d and deb-systemd-invoke whether a service may
# start; 101 forbids it.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-tiproxy-tests

say() { printf 'packages: %s\n' "$*" >&2; }

die() {
	say "$@"
	exit 1
}

# missing prints those of the packages that are not installed.
missing() {
	local p
	for p in "${packages[@]}"; do
		[[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || printf '%s\n' "$p"
	done
}

bar_services() {
	# A file saved by an interrupted run is the real one: keep it.
	if [[ ! -e $saved && ! -L $saved ]] && [[ -e $policy || -L $policy ]]; then
		mv "$policy" "$saved"
	fi
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
}

unbar_services() {
	rm -f "$policy"
	if [[ -e $saved || -L $saved ]]; then
		mv "$saved" "$policy"
	fi
}

install_packages() {
	trap unbar_services EXIT
	trap 'exit 130' INT TERM HUP
	bar_services
	export DEBIAN_FRONTEND=noninteractive
	local apt=(apt-get -o DPkg::Lock::Timeout=300)
	"${apt[@]}" update </dev/null
	"${apt[@]}" install -y --no-install-recommends "$@" </dev/null
}

main() {
	if [[ ${1:-} == --list ]]; then
		printf '%s\n' "${packages[@]}"
		return
	fi
	if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
		die "the tests install what they need on Debian and its relatives only (no apt-get here); they need what these packages bring: ${packages[*]}"
	fi

	local todo
	mapfile -t todo < <(missing)
	if ((${#todo[@]} == 0)); then
		say "all ${#packages[@]} are installed"
		return
	fi
	if ((EUID != 0)); then
		say "missing: ${todo[*]}"
		die "not root, so install them with: sudo apt-get install -y --no-install-recommends ${todo[*]}"
	fi
	say "installing ${todo[*]} (their services are not started)"
	install_packages "${todo[@]}"

	mapfile -t todo < <(missing)
	((${#todo[@]} == 0)) || die "still missing after apt-get: ${todo[*]}"
}

main "$@"
