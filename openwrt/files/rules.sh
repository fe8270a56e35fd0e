# shellcheck shell=dash
# What /etc/init.d/paraglider and firewall.include have in common.

# Is there while the rules are meant to be in force, and is the config that they were made from. It is in memory: nothing
# is written to the flash.
MEANT=/var/run/paraglider.yaml

# The process that checks backends; procd writes it.
WATCH=/var/run/paraglider.pid

# run WORDS: what paraglider says goes to the caller and into the log (logread -e paraglider).
run() {
	local said code
	said="$(paraglider "$@" 2>&1)"
	code=$?
	if [ -n "$said" ]; then
		echo "$said" >&2
		if [ "$code" = 0 ]; then
			echo "$said" | logger -t paraglider -p daemon.info
		else
			echo "$said" | logger -t paraglider -p daemon.err
		fi
	fi
	return "$code"
}

# Whether a config asks for health checks, and so for a watch that runs.
is_checked() {
	grep -q '^[^#]*health[^a-z]*:' "$1" 2>/dev/null
}

# The copy takes the place of the old one in one step: a watch may read it at any time.
keep_as_meant() {
	cp "$1" "$MEANT.$$" && mv "$MEANT.$$" "$MEANT"
}

# put_in_force CONFIG
put_in_force() {
	local config="$1" code early=
	# A watch reads $MEANT as soon as start tells it to; so that has to be the new config by then. A wrong one never is.
	if [ "$1" != "$MEANT" ] && is_checked "$MEANT" && paraglider -config "$1" print >/dev/null 2>&1; then
		early="$MEANT.old"
		cp "$MEANT" "$early" && keep_as_meant "$1" || return
		config="$MEANT"
	fi
	run -config "$config" start
	code=$?
	if [ "$code" = 0 ]; then
		[ "$config" = "$MEANT" ] || keep_as_meant "$config" || code=$?
		[ -z "$early" ] || rm -f "$early"
	elif [ -n "$early" ]; then
		mv "$early" "$MEANT"
		tell_watch HUP
	fi
	return "$code"
}

# tell_watch SIGNAL: if there is one.
tell_watch() {
	local process
	process="$(cat "$WATCH" 2>/dev/null)"
	[ -n "$process" ] && kill -"$1" "$process" 2>/dev/null
}

# procd has told the watch to end, and would kill it after 5 s. Not every busybox sleeps for less than a second.
watch_ends() {
	local tenths=60
	while tell_watch 0 && [ "$tenths" -gt 0 ]; do
		if sleep 0.1 2>/dev/null; then
			tenths=$((tenths - 1))
		else
			sleep 1
			tenths=$((tenths - 10))
		fi
	done
}

take_away() {
	rm -f "$MEANT"
	run stop || return
	let_through_firewall4
}

# firewall4 refuses what none of its own rules accepts, whatever those of iptables say. Its chain for ours, which comes
# with the package (/usr/share/nftables.d), is filled from what is in force, in one transaction.
let_through_firewall4() {
	local binds ip port rules error
	nft list chain inet fw4 paraglider >/dev/null 2>&1 || return 0
	binds="$( (iptables-save -t filter; ip6tables-save -t filter) 2>/dev/null |
		sed -n 's/^-A PARAGLIDER-FWD .*--ctorigdst \([^ /]*\).* --ctorigdstport \([0-9]*\) -j ACCEPT$/\1 \2/p')"
	rules="$(
		echo 'flush chain inet fw4 paraglider'
		echo "$binds" | while read -r ip port; do
			[ -n "$ip" ] || continue
			case "$ip" in
			*:*) set -- ipv6 ip6 ;;
			*) set -- ipv4 ip ;;
			esac
			echo "add rule inet fw4 paraglider meta nfproto $1 meta l4proto tcp ct status dnat" \
				"ct original $2 daddr $ip ct original proto-dst $port accept"
		done
	)"
	error="$(echo "$rules" | nft -f - 2>&1)" && return
	echo "firewall4 does not let through what is balanced: $error" | tee /dev/stderr | logger -t paraglider -p daemon.err
	return 1
}
