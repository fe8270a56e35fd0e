# shellcheck shell=dash
# What /etc/init.d/paraglider and firewall.include have in common.

# The pid file of the watch; procd writes it.
WATCH=/var/run/paraglider.pid

# run WORDS: the messages of paraglider go to the caller and into the log (logread -e paraglider).
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

# Version 0.1 kept a copy of the config that was last put in force here. Put it in force once more by this version, which
# remembers it by itself: the config on the flash may be broken by now. To be deleted in 2027.
take_over_0_1() {
	local copy=/var/run/paraglider.yaml
	[ -e "$copy" ] || return 0
	run -config "$copy" start
	rm -f "$copy"
}

# Waits until the watch has ended. procd has sent it SIGTERM, and kills it after 5 s. Not every busybox can sleep for less
# than a second.
watch_ends() {
	local process tenths=60
	process="$(cat "$WATCH" 2>/dev/null)"
	while [ -n "$process" ] && kill -0 "$process" 2>/dev/null && [ "$tenths" -gt 0 ]; do
		if sleep 0.1 2>/dev/null; then
			tenths=$((tenths - 1))
		else
			sleep 1
			tenths=$((tenths - 10))
		fi
	done
}

# firewall4 drops what none of its own rules accepts, whatever iptables accepts. The package adds a chain of ours to it
# (/usr/share/nftables.d); here it is filled with the frontends in force, in one transaction.
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
