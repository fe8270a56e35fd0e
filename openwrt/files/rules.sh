# shellcheck shell=dash
# What /etc/init.d/paraglider and firewall.include have in common.

# The pid file of the watch; procd writes it.
WATCH=/var/run/paraglider.pid

# run WORDS: the messages of paraglider go to the caller and into the log (logread -e paraglider), which has a level and a name
# of its own.
run() {
	local said code
	said="$(PARAGLIDER_LOG=procd paraglider "$@" 2>&1)"
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
