# What a maintainer script gets from OpenWrt's /lib/functions.sh: uci-defaults, the package's own part of the script (opkg
# has it in a file; apk has it behind the call), and the init scripts, of which only a removal and a first installation change
# the links. uci-defaults that do not end with 0 stay.

list_contains() {
	eval "case \" \$$1 \" in *\" $2 \"*) ;; *) return 1 ;; esac"
}

# files FOLDER: those of the package that are in it.
files() {
	for list in "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.list" "$IPKG_INSTROOT/lib/apk/packages/$pkgname.list"; do
		[ ! -f "$list" ] || grep "^$1/" "$list"
	done
}

# own SCRIPT: the package's part, if it is in a file.
own() {
	[ ! -f "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.$1" ] || (. "$IPKG_INSTROOT/usr/lib/opkg/info/$pkgname.$1")
}

add_group_and_user() { :; }

default_postinst() {
	local ret
	[ -n "$pkgname" ] || local pkgname="$(basename "${1%.*}")"
	if [ -z "$IPKG_INSTROOT" ]; then
		for file in $(files /etc/uci-defaults); do
			([ -f "$file" ] && cd "$(dirname "$file")" && . "$file") && rm -f "$file"
		done
		uci commit
	fi
	own postinst-pkg
	ret=$?
	for script in $(files /etc/init.d); do
		if [ -n "$IPKG_INSTROOT" ]; then
			/bin/sh "$IPKG_INSTROOT/etc/rc.common" "$IPKG_INSTROOT$script" enable
		else
			[ "$PKG_UPGRADE" = 1 ] || "$script" enable
			"$script" start
		fi
	done
	return $ret
}

default_prerm() {
	local ret
	[ -n "$pkgname" ] || local pkgname="$(basename "${1%.*}")"
	own prerm-pkg
	ret=$?
	for script in $(files /etc/init.d); do
		[ "$PKG_UPGRADE" = 1 ] || "$script" disable
		"$script" stop
	done
	return $ret
}
