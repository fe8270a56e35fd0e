# shellcheck shell=dash
# What /etc/init.d/paraglider and firewall.include have in common.

# Is there while the rules are meant to be in force, and is the config that they were made from. It is in memory: nothing
# is written to the flash.
MEANT=/var/run/paraglider.yaml

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

# put_in_force CONFIG
put_in_force() {
	run -config "$1" start || return
	if [ "$1" != "$MEANT" ]; then
		cp "$1" "$MEANT.$$" && mv "$MEANT.$$" "$MEANT" || return
	fi
	let_through_firewall4
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
