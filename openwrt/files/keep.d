/etc/uci-defaults/60-paraglider
