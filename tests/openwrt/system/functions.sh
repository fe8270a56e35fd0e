# What a maintainer script gets from OpenWrt's /lib/functions.sh: the package's own part, uci-defaults, and the init
# scripts, in this order when it comes and in that order when it goes.
info=$IPKG_INSTROOT/usr/lib/opkg/info/paraglider

default_postinst() {
	[ ! -f "$info.postinst-pkg" ] || (. "$info.postinst-pkg")
	if [ -z "$IPKG_INSTROOT" ]; then
		for file in /etc/uci-defaults/*; do
			[ ! -f "$file" ] || { (. "$file") && rm -f "$file"; }
		done
	fi
	script=$IPKG_INSTROOT/etc/init.d/paraglider
	if [ -n "$IPKG_INSTROOT" ]; then
		/bin/sh "$IPKG_INSTROOT/etc/rc.common" "$script" enable
	else
		[ "$PKG_UPGRADE" = 1 ] || "$script" enable
		"$script" start
	fi
	return 0
}

default_prerm() {
	[ ! -f "$info.prerm-pkg" ] || (. "$info.prerm-pkg")
	[ "$PKG_UPGRADE" = 1 ] || /etc/init.d/paraglider disable
	/etc/init.d/paraglider stop || true
}
