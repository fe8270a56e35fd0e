# shellcheck shell=dash
# What /etc/init.d/paraglider, firewall.include and the hotplug script have in common.

CONFIG=/etc/paraglider/glider.yaml

# The pid file of the watch; procd writes it.
WATCH=/var/run/paraglider.pid

# Not empty where somebody reads what is printed. Empty at boot: procd logs what is printed, so it would be there twice.
ALOUD=

# run WORDS: the messages of paraglider go into the log (logread -e paraglider), and to the caller if there is one.
run() {
	local said code
	said="$(PARAGLIDER_LOG=procd paraglider "$@" 2>&1)"
	code=$?
	say "$said"
	return "$code"
}

# say LINES: each at its own level, which the log has beside the text.
say() {
	local line
	[ -n "$1" ] || return 0
	[ -z "$ALOUD" ] || printf '%s\n' "$1" >&2
	printf '%s\n' "$1" | while IFS= read -r line; do
		case $line in
		'error: '*) logger -t paraglider -p daemon.err -- "${line#error: }" ;;
		'warning: '*) logger -t paraglider -p daemon.warning -- "${line#warning: }" ;;
		*) logger -t paraglider -p daemon.info -- "$line" ;;
		esac
	done
}

# Whether the config has more than blank lines and comments.
is_configured() {
	[ ! -e "$CONFIG" ] || grep -q '^[[:space:]]*[^#[:space:]]' "$CONFIG"
}

# Whether rules are in force. status ends with 0: they are; 1: they are, but not as in the config; 3: they are not; 4: that
# is unknown.
is_in_force() {
	paraglider status >/dev/null 2>&1
	[ $? -lt 2 ]
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
